"""A real engine on a real GPU: built by the export, run by the runtime."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime import BackendError, open_classifier
from runtime.backends.preflight import this_machine

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.fixture(scope="module")
def bundle(
    trained_run: Path,
    trained_bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
    command: Callable[..., subprocess.CompletedProcess[str]],
) -> Path:
    try:
        this_machine("tensorrt")
    except BackendError as missing:
        pytest.skip(str(missing))
    folder = tmp_path_factory.mktemp("gpu")
    copy = folder / trained_run.name
    shutil.copytree(trained_run, copy)
    # From the run, not from its bundle: TensorRT 8.6 needs files of an older opset than it holds.
    command("export/build_trt.py", copy, "--precision", "fp32,fp16,int8", cwd=folder, check=True)
    return copy / trained_bundle.name


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_engines_agree_with_the_student(bundle: Path, precision: str) -> None:
    holdout = np.load(bundle / "holdout.npz")
    with open_classifier(bundle, backend="tensorrt", precision=precision) as classifier:
        session = classifier.session
        step = session.max_batch or 1
        images = holdout["images"]
        parts = [session.run(images[i : i + step]) for i in range(0, len(images), step)]
        one_by_one = np.concatenate([session.run(images[i : i + 1]) for i in range(20)])
    found = np.concatenate(parts)
    lost = np.mean(holdout["probabilities"].argmax(1) == holdout["labels"]) - np.mean(
        found.argmax(1) == holdout["labels"]
    )
    assert lost <= {"fp32": 0.002, "fp16": 0.002, "int8": 0.01}[precision]
    assert np.abs(one_by_one - found[:20]).max() < 0.05


def test_the_gpu_is_the_automatic_choice(bundle: Path) -> None:
    with open_classifier(bundle) as classifier:
        assert (classifier.backend, classifier.precision) == ("tensorrt", "fp16")
        labels = classifier.classify_batch(sorted((bundle / "examples").iterdir()))
        assert all(labels)
