"""A machine with a stand-in for TensorRT and CUDA, and a bundle with an engine for it."""

import shutil
from pathlib import Path

import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import VERSIONS, FakeTrt, change_engine, install

from runtime.backends.cuda_runtime import Cuda


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()

    def use_fake(self: Cuda) -> None:
        self._api = fake

    monkeypatch.setattr(Cuda, "__init__", use_fake)
    return fake


@pytest.fixture(
    params=[("tensorrt", version) for version in VERSIONS] + [("tensorrt-rtx", "11.4.0")],
    ids=lambda value: " ".join(value),
)
def trt(request: pytest.FixtureRequest, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeTrt:
    flavor, version = request.param
    return install(FakeTrt(version, flavor, cuda), monkeypatch)


@pytest.fixture
def rtx(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeTrt:
    return install(FakeTrt("11.4.0", "tensorrt-rtx", cuda), monkeypatch)


@pytest.fixture(autouse=True)
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where compiled kernels are kept."""
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


@pytest.fixture
def trt11(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeTrt:
    return install(FakeTrt("11.4.0", "tensorrt", cuda), monkeypatch)


@pytest.fixture
def engine_bundle(toy_bundle: Path, tmp_path: Path) -> Path:
    """The toy bundle with an engine for this stand-in machine."""
    bundle = tmp_path / "bundle"
    shutil.copytree(toy_bundle, bundle)
    change_engine(bundle)
    return bundle
