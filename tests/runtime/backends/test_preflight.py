"""Which engine fits a machine, and what is said of those that do not."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import FakeTrt, batch, change_engine

from runtime import (
    BackendError,
    BundleError,
    Classifier,
    EngineMismatchError,
    open_classifier,
)
from runtime.backends.gpu import Gpu


def test_a_fitting_engine_is_chosen_and_runs(trt11: FakeTrt, engine_bundle: Path) -> None:
    with open_classifier(engine_bundle) as classifier:
        assert isinstance(classifier, Classifier)
        assert (classifier.backend, classifier.precision) == ("tensorrt", "fp16")
        assert classifier.source.endswith("model.fp16.tensorrt.sm89.engine")
        assert classifier.classify(engine_bundle / "examples" / "red.png")[0].label == "red"
        images = [engine_bundle / "examples" / "blue.png"] * 40
        labels = [answer[0].label for answer in classifier.classify_batch(images)]
        assert labels == ["blue"] * 40
    assert trt11.cuda.live == {}


def test_an_engine_is_opened_by_one_deserialisation(trt11: FakeTrt, engine_bundle: Path) -> None:
    with open_classifier(engine_bundle, backend="tensorrt") as classifier:
        classifier.warm_up(1, 4)
        classifier.classify(engine_bundle / "examples" / "red.png")
    assert trt11.deserialised == [b"plan"]


def test_all_cores_decode_for_an_engine_that_takes_large_batches(
    trt11: FakeTrt, engine_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.base import parallel as pipeline

    monkeypatch.setattr(pipeline, "usable_cores", lambda: 8)
    workers: set[int] = set()

    def prepare(image: np.ndarray, **_options: object) -> np.ndarray:
        workers.add(threading.get_ident())
        time.sleep(0.005)
        return image

    with open_classifier(engine_bundle, backend="tensorrt") as classifier:
        monkeypatch.setattr(classifier, "prepare", prepare)
        answers = list(classifier.classify_stream(batch(64)))
    assert len(answers) == 64
    assert len(workers) == 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"platform": "Linux-aarch64"}, "is for Linux-aarch64, this machine is"),
        ({"tensorrt_version": "10.3.0"}, "was built by tensorrt 10.3.0, this machine has 11.4.0"),
        (
            {"compute_capability": ("8.7", "9.0")},
            r"capability 8.7, 9.0, this GPU \(NVIDIA L4\) has 8.9",
        ),
        ({"gpu_name": "NVIDIA L40"}, "was built on NVIDIA L40, this GPU is NVIDIA L4"),
        ({"onnx_sha256": "0" * 64}, "was built from another model.fp16.onnx than the bundle"),
        ({"precision": "int8"}, "a int8 ONNX file that the bundle no longer lists"),
    ],
)
def test_each_mismatch_has_its_message_and_the_rebuild_command(
    trt11: FakeTrt, engine_bundle: Path, changes: dict[str, Any], words: str
) -> None:
    change_engine(engine_bundle, **changes)
    with pytest.raises(EngineMismatchError, match=words) as caught:
        open_classifier(engine_bundle, backend="tensorrt")
    precision = changes.get("precision", "fp16")
    command = f"`python export/build_trt.py {engine_bundle} --precision {precision}"
    assert command in str(caught.value)
    assert trt11.deserialised == []
    with open_classifier(engine_bundle) as classifier:  # by itself it takes what runs, and says so
        assert classifier.backend == "onnx-cpu"
        assert "tensorrt: engines/" in classifier.reason


@pytest.mark.parametrize("damage", ["truncated", "foreign", "tampered", "absent"])
def test_a_damaged_engine_never_reaches_the_deserialiser(
    trt11: FakeTrt, engine_bundle: Path, damage: str
) -> None:
    path = engine_bundle / "engines" / "model.fp16.tensorrt.sm89.engine"
    content = {"truncated": b"pla", "foreign": b"ftrt" * 100, "tampered": b"plbn"}.get(damage)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError, match=r"sm89\.engine is (not the file|listed)") as caught:
        open_classifier(engine_bundle, backend="tensorrt")
    assert "export/build_trt.py" in str(caught.value)
    assert trt11.deserialised == []


def test_bindings_that_are_newer_than_the_driver_are_passed_over(
    trt11: FakeTrt, engine_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.backends import preflight

    monkeypatch.setattr(preflight, "find_gpu", lambda: Gpu("NVIDIA L4", "8.9", 24 << 30, "12.4"))
    with pytest.raises(BackendError, match=r"13\.0\.3 is too new.*'cuda-bindings>=12\.6,<13'"):
        open_classifier(engine_bundle, backend="tensorrt")
    with open_classifier(engine_bundle) as classifier:
        assert classifier.backend == "onnx-cpu"
        assert "tensorrt: cuda-bindings 13.0.3 is too new" in classifier.reason


def test_a_missing_part_is_named(
    engine_bundle: Path, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.backends import preflight

    change_engine(engine_bundle, flavor="tensorrt-rtx")
    monkeypatch.setattr(preflight, "is_installed", lambda flavor: False)
    with pytest.raises(
        BackendError, match=r"tensorrt-rtx is not installed.*pip install tensorrt-rtx-cu13"
    ):
        open_classifier(engine_bundle, backend="tensorrt-rtx")
    monkeypatch.setattr(preflight, "is_installed", lambda flavor: True)
    monkeypatch.setattr(preflight, "bindings_are_installed", lambda: False)
    with pytest.raises(BackendError, match="cuda-bindings is not installed"):
        open_classifier(engine_bundle, backend="tensorrt-rtx")
    with open_classifier(engine_bundle) as classifier:
        assert "tensorrt-rtx: cuda-bindings is not installed" in classifier.reason
