"""What this machine has for each backend, and what would mend what is missing."""

import os
import platform
from pathlib import Path

import msgspec

from runtime.backends.gpu import Gpu, find_gpu, missing_gpu
from runtime.backends.onnx_provider import (
    OnnxBackend,
    failed_start,
    load_onnxruntime,
    missing_build,
)
from runtime.backends.preflight import (
    cuda_bindings,
    cuda_mismatch,
    install_cuda,
    is_installed_cuda,
    major,
    this_platform,
)
from runtime.backends.session import BACKENDS, Backend
from runtime.backends.tensorrt_library import (
    INSTALL,
    INSTALL_ON_JETSON,
    is_installed,
    load_tensorrt,
)
from runtime.base.errors import BackendError
from runtime.base.parallel import usable_cores
from runtime.model.card import FLAVORS, Flavor

_JETSON_RELEASE = Path("/etc/nv_tegra_release")
# 1.27 and newer need CUDA 13. The extras bring CUDA and cuDNN themselves.
_CUDA_13 = 13
_ONNX_CUDA = "pip uninstall -y onnxruntime; pip install 'onnxruntime-gpu[cuda,cudnn]{limit}'"
_JETSON_TENSORRT = (
    f"{INSTALL_ON_JETSON}, and make the virtual environment with "
    "`python3 -m venv --system-site-packages`"
)


class BackendState(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a backend runs here; if not, why, and what to do."""

    backend: Backend
    runs: bool
    reason: str | None = None
    remedy: str | None = None


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides which backends run."""

    python: str
    platform: str
    jetson: str | None
    cores: int
    memory_gib: float
    onnxruntime: str
    providers: list[str]
    tensorrt: dict[str, str | None]  # flavor: version, or None where it is not installed
    cuda_bindings: str | None
    gpu: Gpu | None
    backends: list[BackendState]


def diagnose() -> Diagnosis:
    """Looks at this machine. Imports what is installed, runs nothing."""
    onnxruntime = load_onnxruntime()
    return Diagnosis(
        python=platform.python_version(),
        platform=this_platform(),
        jetson=_jetson(),
        cores=usable_cores(),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1),
        onnxruntime=onnxruntime.__version__,
        providers=list(onnxruntime.get_available_providers()),
        tensorrt={flavor: _version(flavor) for flavor in FLAVORS},
        cuda_bindings=cuda_bindings(),
        gpu=_gpu(),
        backends=[_state(backend) for backend in BACKENDS],
    )


def _state(backend: Backend) -> BackendState:
    if backend == "onnx-cpu" or backend == "onnx-cuda":
        problem = _onnx_problem(backend)
    else:
        problem = _engine_problem(backend)
    if problem is None:
        return BackendState(backend=backend, runs=True)
    reason, remedy = problem
    return BackendState(backend=backend, runs=False, reason=reason, remedy=remedy)


def _onnx_problem(backend: OnnxBackend) -> tuple[str, str] | None:
    """The reason and the remedy; None if the backend runs."""
    if reason := missing_build(backend):
        if platform.machine() == "aarch64":
            return reason, "none: PyPI has no such build for this processor; use tensorrt"
        return reason, _install_onnx_cuda()
    if backend == "onnx-cuda" and (missing := missing_gpu()):
        return str(missing), missing.remedy
    if reason := failed_start(backend):
        return reason, _install_onnx_cuda()
    return None


def _install_onnx_cuda() -> str:
    """For the driver that is here; the newest if there is none yet."""
    gpu = _gpu()
    is_old = gpu is not None and major(gpu.cuda_version) < _CUDA_13
    return _ONNX_CUDA.format(limit="<1.27" if is_old else "")


def _engine_problem(flavor: Flavor) -> tuple[str, str] | None:
    if not is_installed(flavor):
        jetson = flavor == "tensorrt" and _jetson() is not None
        return f"{flavor} is not installed", _JETSON_TENSORRT if jetson else INSTALL[flavor]
    if not is_installed_cuda():
        return "cuda-bindings is not installed", install_cuda(_gpu())
    if missing := missing_gpu():
        return str(missing), missing.remedy
    gpu = find_gpu()
    if reason := cuda_mismatch(gpu):
        return reason, install_cuda(gpu)
    try:
        trt = load_tensorrt(flavor)
    except BackendError as error:
        return str(error), INSTALL[flavor]
    capability = gpu.compute_capability
    known = getattr(trt, "ComputeCapability", None)  # TensorRT-RTX alone names what it supports
    if known is not None and not hasattr(known, f"SM{capability.replace('.', '')}"):
        return f"{flavor} does not support compute capability {capability}", "use tensorrt"
    return None


def _gpu() -> Gpu | None:
    return None if missing_gpu() else find_gpu()


def _version(flavor: Flavor) -> str | None:
    if not is_installed(flavor):
        return None
    try:
        return str(load_tensorrt(flavor).__version__)
    except BackendError as error:
        return f"broken: {error}"


def _jetson() -> str | None:
    """The release line of L4T, on a Jetson."""
    try:
        return _JETSON_RELEASE.read_text().splitlines()[0].strip("# ")
    except (OSError, IndexError):
        return None
