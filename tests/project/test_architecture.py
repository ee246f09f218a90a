"""The layers of the project: what may import what, and what a file may be called."""

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("demo", "export", "runtime", "training")

BLOCK_TORCH = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torchvision", "training", "export", "demo"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
"""


def modules(package: str) -> list[str]:
    files = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


def test_every_runtime_module_imports_without_torch() -> None:
    imports = "\n".join(f"import {name}" for name in modules("runtime"))
    finished = subprocess.run(
        [sys.executable, "-c", BLOCK_TORCH + imports],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_ours(package: str) -> None:
    # Some distributions ship a top-level `runtime/` or `demo/` by accident.
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).is_relative_to(ROOT)


def test_no_module_shadows_another_package() -> None:
    # `python training/run.py` puts training/ first on sys.path: a file named like a package that
    # anybody imports (torch imports triton, for one) would be taken for it.
    foreign = set(sys.stdlib_module_names) | {"triton", "onnx", "tensorrt", "datasets", "evaluate"}
    foreign |= set(importlib.metadata.packages_distributions()) - set(PACKAGES)
    for package in PACKAGES:
        files = (ROOT / package).iterdir()
        names = {path.stem for path in files if path.is_dir() or path.suffix == ".py"}
        assert not (names - {"__init__", "__main__", "__pycache__"}) & foreign


def test_top_level_is_what_the_readme_promises() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    folders = {Path(name).parts[0] for name in tracked.stdout.splitlines() if "/" in name}
    assert set(PACKAGES) | {"tests"} <= folders
    assert folders <= set(PACKAGES) | {"tests", ".ci", "docs", "results"}


def test_all_is_every_extra_but_trt() -> None:
    # NVIDIA's own index serves TensorRT's libraries: `all` must install from PyPI alone.
    extras: dict[str, set[str]] = {}
    for requirement in importlib.metadata.requires("skd-edge") or []:
        name, _, extra = requirement.partition("extra == ")
        if extra:
            extras.setdefault(extra.strip("'\""), set()).add(re.split(r"[<>=; ]", name)[0])
    everything = extras.pop("all")
    assert set().union(*(names for extra, names in extras.items() if extra != "trt")) == everything
    assert "tensorrt" in extras["trt"]
    assert "tensorrt" not in everything


def test_modules_stay_small() -> None:
    long = {
        str(file.relative_to(ROOT)): lines
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
        if (lines := len(file.read_text().splitlines())) > 300
    }
    assert not long
