"""The backends of ONNX Runtime: `onnx-cpu` and `onnx-cuda`."""

import platform
from typing import ClassVar

from runtime.backends.backend import Backend, Problem
from runtime.backends.gpu import gpu_if_any, missing_gpu
from runtime.backends.onnx_provider import (
    REINSTALL,
    UNINSTALL,
    failed_start,
    missing_build,
)
from runtime.backends.onnx_session import OnnxSession
from runtime.backends.session import Session, Threads
from runtime.model.card import EngineRecord, ModelFile

# onnxruntime-gpu 1.27 and newer need CUDA 13. The extras bring CUDA and cuDNN.
_CUDA_13 = 13
_INSTALL_CUDA = f"{UNINSTALL}; pip install 'onnxruntime-gpu[cuda,cudnn]{{limit}}'"
_NO_CUDA_BUILD = "none: PyPI has no such build for this processor; use tensorrt"


class _OnnxBackend(Backend):
    """ONNX Runtime with the execution provider of the backend's name."""

    def open(
        self,
        content: bytes,
        *,
        source: str,
        record: ModelFile | EngineRecord | None,
        threads: Threads | None = None,
    ) -> Session:
        return OnnxSession(content, source=source, backend=self.name, threads=threads)


class OnnxCpu(_OnnxBackend):
    """ONNX Runtime on the CPU. It runs everywhere."""

    name = "onnx-cpu"
    title = "ONNX Runtime, CPU"
    # int8-cpu costs up to a point of accuracy. It comes after fp32, so it is used when asked for.
    precisions = ("fp32", "int8-cpu", "fp16", "int8")
    slow_precisions = frozenset({"int8"})  # the graph for TensorRT, only simulated here
    priority = 0
    runs_on_cpu: ClassVar[bool] = True

    def problem(self) -> Problem | None:
        reason = missing_build(self.name)
        return Problem(reason, REINSTALL) if reason else None


class OnnxCuda(_OnnxBackend):
    """ONNX Runtime on an NVIDIA GPU."""

    name = "onnx-cuda"
    title = "ONNX Runtime, GPU"
    precisions = ("fp16", "fp32", "int8")
    slow_precisions = frozenset({"int8"})
    priority = 1

    def problem(self) -> Problem | None:
        if reason := missing_build(self.name):
            on_arm = platform.machine() == "aarch64"
            return Problem(reason, _NO_CUDA_BUILD if on_arm else _install_cuda())
        if missing := missing_gpu():
            return Problem(str(missing), missing.remedy)
        # Last, because it takes a moment: CUDA has to start.
        if reason := failed_start(self.name):
            return Problem(reason, _install_cuda())
        return None


def _install_cuda() -> str:
    """The commands for the driver that is here; for the newest one if there is none yet."""
    gpu = gpu_if_any()
    is_old = gpu is not None and gpu.cuda_major < _CUDA_13
    return _INSTALL_CUDA.format(limit="<1.27" if is_old else "")


ONNX_CPU = OnnxCpu()
ONNX_CUDA = OnnxCuda()
