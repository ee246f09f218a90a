"""Engines where JetPack 6 is: Python 3.10, and no torch, no onnx in the environment."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from export.bundles.export_options import ExportOptions
from export.pipeline import export_run
from runtime.base.files import sha256_of
from runtime.model.bundle import read_card

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
PACKAGES = ("numpy", "onnxruntime", "pillow", "msgspec", "tensorrt-rtx-cu13>=1.7,<2")


@pytest.fixture(scope="module")
def python310(
    tmp_path_factory: pytest.TempPathFactory, find_python: Callable[[str], str | None]
) -> Path:
    interpreter = find_python("3.10")
    if interpreter is None:
        pytest.skip("Python 3.10 is not installed")
    folder = tmp_path_factory.mktemp("python310")
    python = folder / "bin" / "python"
    for command in (
        [interpreter, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", *PACKAGES],
    ):
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            last = (made.stderr.strip().splitlines() or ["no reason given"])[-1]
            pytest.skip(f"the environment cannot be made here: {last}")
    return python


def test_engines_of_every_precision_are_built(
    python310: Path, fitted_run: Path, fitted_bundle: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(fitted_bundle, bundle)
    # The bundle's int8 file of opset 17 is too old for TensorRT-RTX.
    newer = ExportOptions(precisions=("int8",), opset=20, calibration="minmax", out=bundle)
    export_run(fitted_run, newer, lambda _text: None)
    arguments = [str(bundle), "--precision", "fp32,fp16,int8", "--compute-capability", "8.6"]
    built = subprocess.run(
        [str(python310), str(ROOT / "export" / "build_trt.py"), *arguments],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (built.returncode, built.stderr) == (0, "")
    engines = read_card(bundle).engines
    assert [engine.precision for engine in engines] == ["fp32", "fp16", "int8"]
    assert all(sha256_of(bundle / engine.path) == engine.sha256 for engine in engines)
    listed = subprocess.run(
        [str(python310), "-m", "pip", "list", "--format=json"],
        capture_output=True,
        text=True,
        check=True,
    )
    installed = {package["name"].lower() for package in json.loads(listed.stdout)}
    assert not installed & {"torch", "torchvision", "onnx", "onnx-ir", "onnxscript"}
