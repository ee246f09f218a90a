"""`python -m runtime doctor` on this machine and on stand-ins for others."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import pytest

from runtime.backends import (
    cuda_runtime,
    gpu,
    onnx_backends,
    preflight,
    tensorrt_library,
)
from runtime.backends.diagnosis import BackendState, diagnose
from runtime.backends.gpu import Gpu
from runtime.backends.registry import backend_names
from runtime.base.errors import BackendError, GpuError
from runtime.model.card import Flavor

L4 = Gpu("NVIDIA L4", "8.9", 24 << 30, "13.0")
NO_DRIVER = GpuError("no NVIDIA driver", remedy="install NVIDIA's driver")
HIDDEN = GpuError("the NVIDIA driver finds no GPU", remedy="must not hide")
ORIN = Gpu("Orin", "8.7", 8 << 30, "12.6")  # JetPack 6


def test_every_backend_is_judged(
    command: Callable[..., CompletedProcess[str]],
    cli: Callable[..., CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    finished = command("-m", "runtime", "doctor", "--json", cwd=tmp_path, check=True)
    (line,) = finished.stdout.splitlines()
    found = json.loads(line)
    assert [state["backend"] for state in found["backends"]] == list(backend_names())
    for state in found["backends"]:
        assert state["runs"] == (state["reason"] is None) == (state["remedy"] is None)
    assert found["onnxruntime"]
    assert found["cores"] >= 1
    people = cli("doctor").stdout
    assert "onnx-cpu       runs" in people
    for state in found["backends"]:
        assert state["reason"] is None or state["reason"] in people


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, BackendState]]:
    """Diagnoses a machine that is described by keywords."""

    def diagnosed(
        *,
        card: Gpu | None = L4,
        tensorrt: tuple[str, ...] = ("tensorrt",),
        cuda: bool = True,
        bindings: str | None = "13.0.3",
        broken: bool = False,
        capabilities: object = None,
        no_card: GpuError = NO_DRIVER,
        missing: str | None = None,
        starts: bool = True,
    ) -> dict[str, BackendState]:
        def find() -> Gpu:
            if card is None:
                raise no_card
            return card

        def load(flavor: Flavor) -> object:
            if broken:
                raise BackendError("libnvinfer.so.10: cannot open shared object file")
            module = SimpleNamespace(__version__="10.3.0")
            if capabilities is not None:
                module.ComputeCapability = capabilities
            return module

        for module in (gpu, preflight):
            monkeypatch.setattr(module, "find_gpu", find)
        for module in (preflight, tensorrt_library):
            monkeypatch.setattr(module, "is_installed", lambda flavor: flavor in tensorrt)
            monkeypatch.setattr(module, "load_tensorrt", load)
        monkeypatch.setattr(preflight, "bindings_are_installed", lambda: cuda)
        monkeypatch.setattr(cuda_runtime, "bindings_version", lambda: bindings)
        monkeypatch.setattr(
            onnx_backends, "failed_start", lambda name: None if starts else "does not start"
        )
        monkeypatch.setattr(
            onnx_backends, "missing_build", lambda name: missing if name == "onnx-cuda" else None
        )
        return {state.backend: state for state in diagnose().backends}

    return diagnosed


def test_a_full_desktop_runs_everything(machine: Callable[..., dict[str, BackendState]]) -> None:
    known = SimpleNamespace(SM89=1)
    for bindings in ("12.9.4", "13.0.3", None):
        states = machine(
            tensorrt=("tensorrt", "tensorrt-rtx"), capabilities=known, bindings=bindings
        )
        assert all(state.runs for state in states.values())


@pytest.mark.parametrize(
    ("changes", "backend", "reason", "remedy"),
    [
        ({"tensorrt": ()}, "tensorrt", "tensorrt is not installed", "pip install 'tensorrt<12'"),
        (
            {"tensorrt": (), "card": ORIN},
            "tensorrt",
            "tensorrt is not installed",
            "pip install 'tensorrt-cu12<12' 'cuda-bindings<13' --extra-index-url",
        ),
        (
            {"tensorrt": ()},
            "tensorrt-rtx",
            "tensorrt-rtx is not installed",
            "pip install tensorrt-rtx-cu13",
        ),
        ({"cuda": False}, "tensorrt", "cuda-bindings is not", "pip install 'cuda-bindings"),
        ({"cuda": False, "card": ORIN}, "tensorrt", "cuda-bindings is not", ">=12.6,<13'"),
        (
            {"card": ORIN},
            "tensorrt",
            "cuda-bindings 13.0.3 is too new for a driver of CUDA 12.6",
            "pip install 'cuda-bindings>=12.6,<13'",
        ),
        ({"card": None}, "tensorrt", "no NVIDIA driver", "install NVIDIA's driver"),
        (
            {"card": None},
            "onnx-cuda",
            "no NVIDIA driver",
            "install NVIDIA's driver",
        ),
        ({"card": None, "no_card": HIDDEN}, "tensorrt", "finds no GPU", "must not hide"),
        (
            {"card": None, "no_card": HIDDEN},
            "onnx-cuda",
            "finds no GPU",
            "must not hide",
        ),
        ({"broken": True}, "tensorrt", "libnvinfer.so.10", "pip install 'tensorrt<12'"),
        (
            {"missing": "built without CUDA"},
            "onnx-cuda",
            "built without",
            "pip uninstall -y onnxruntime onnxruntime-gpu; pip install 'onnxruntime-gpu[cuda,",
        ),
        ({"starts": False}, "onnx-cuda", "does not start", "onnxruntime-gpu[cuda,cudnn]'"),
        ({"starts": False, "card": ORIN}, "onnx-cuda", "does not start", "[cuda,cudnn]<1.27'"),
        (
            {"tensorrt": ("tensorrt-rtx",), "capabilities": SimpleNamespace(SM86=1)},
            "tensorrt-rtx",
            "does not support compute capability 8.9",
            "use tensorrt",
        ),
    ],
)
def test_what_is_missing_has_a_reason_and_a_remedy(
    machine: Callable[..., dict[str, BackendState]],
    changes: dict[str, object],
    backend: str,
    reason: str,
    remedy: str,
) -> None:
    state = machine(**changes)[backend]
    assert not state.runs
    assert reason in str(state.reason)
    assert remedy in str(state.remedy)


def test_a_jetson_is_told_to_use_the_systems_tensorrt(
    machine: Callable[..., dict[str, BackendState]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = tmp_path / "nv_tegra_release"
    release.write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n")
    monkeypatch.setattr(gpu, "_JETSON_RELEASE", release)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    states = machine(tensorrt=(), missing="built without CUDAExecutionProvider")
    assert "--system-site-packages" in str(states["tensorrt"].remedy)
    assert "use tensorrt" in str(states["onnx-cuda"].remedy)
    assert str(diagnose().jetson).startswith("R36 (release), REVISION: 4.3")


class FakeDriver:
    """`libcuda.so.1` with one GPU; `fail` names a call that gives an error."""

    def __init__(self, fail: str | None = None, count: int = 1, error: int = 999) -> None:
        self.error = error
        values = {
            "cuInit": [],
            "cuDeviceGetCount": [count],
            "cuDriverGetVersion": [12060],
            "cuDeviceGet": [0],
            "cuDeviceTotalMem_v2": [8 << 30],
        }
        for name, given in values.items():
            self.add(name, given, fail)
        self.add("cuDeviceGetName", [], fail)
        self.add("cuDeviceGetAttribute", [], fail)

    def add(self, name: str, given: list[int], fail: str | None) -> None:
        def call(*arguments: object) -> int:
            if name == fail:
                return self.error
            if name == "cuDeviceGetName":
                arguments[0].value = b"Orin"  # type: ignore[attr-defined]
            elif name == "cuDeviceGetAttribute":
                arguments[0]._obj.value = {75: 8, 76: 7}[arguments[1]]  # type: ignore[attr-defined,index]
            elif given:
                arguments[0]._obj.value = given[0]  # type: ignore[attr-defined]
            return 0

        call.__name__ = name
        setattr(self, name, call)


def test_the_driver_is_read_and_its_errors_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = gpu.find_gpu.__wrapped__
    monkeypatch.setattr("ctypes.CDLL", lambda name: FakeDriver())
    assert find() == Gpu("Orin", "8.7", 8 << 30, "12.6")
    monkeypatch.setattr("ctypes.CDLL", lambda name: FakeDriver(fail="cuInit"))
    with pytest.raises(GpuError, match="cuInit gave error 999") as no_driver:
        find()
    assert "install NVIDIA's driver" in no_driver.value.remedy
    assert "the groups video and render" in no_driver.value.remedy
    monkeypatch.setattr("ctypes.CDLL", lambda name: FakeDriver(count=0))
    with pytest.raises(BackendError, match="finds no GPU"):
        find()
    # What drivers really say where there is none, or where it is hidden.
    monkeypatch.setattr("ctypes.CDLL", lambda name: FakeDriver(fail="cuInit", error=100))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(GpuError, match="finds no GPU: CUDA_VISIBLE_DEVICES is ''") as hidden:
        find()
    assert "CUDA_VISIBLE_DEVICES must not hide" in hidden.value.remedy
    assert "the groups video and render" in hidden.value.remedy
