"""The CUDA runtime, by the package cuda-bindings: whether it is here, and the calls we need."""

import ctypes
import importlib.metadata
import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.backends.gpu import Gpu
from runtime.base.errors import BackendError, DeviceLostError

_REQUIREMENT = "cuda-bindings>=12.6"
# The errors of which the documentation of cudaError_t says: "To continue using CUDA, the process
# must be terminated and relaunched."
LOST_DEVICE = frozenset({226, 700, 702, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911})


def bindings_are_installed() -> bool:
    """Whether cuda-bindings can be found."""
    # A package called `cuda` alone may be another one.
    return find_spec("cuda") is not None and find_spec("cuda.bindings") is not None


def bindings_version() -> str | None:
    """The version of cuda-bindings; None where pip knows of none."""
    try:
        return importlib.metadata.version("cuda-bindings")
    except importlib.metadata.PackageNotFoundError:
        return None


def bindings_mismatch(gpu: Gpu) -> str | None:
    """Why cuda-bindings cannot work with the driver of `gpu`; None if they can."""
    installed = bindings_version()
    # They hold a CUDA runtime. It runs on drivers of its own major version and on newer ones.
    if installed is None or int(installed.split(".")[0]) <= gpu.cuda_major:
        return None
    return f"cuda-bindings {installed} is too new for a driver of CUDA {gpu.cuda_version}"


def install_bindings(gpu: Gpu | None) -> str:
    """The command that installs cuda-bindings, for the driver of `gpu` if there is one."""
    limit = "" if gpu is None else f",<{gpu.cuda_major + 1}"
    return f"pip install '{_REQUIREMENT}{limit}'"


def cuda_error(status: int, text: str) -> BackendError:
    """The error of a CUDA call that gave `status`; DeviceLostError if it ends all use of CUDA."""
    if status in LOST_DEVICE:
        return DeviceLostError(f"{text}; this process cannot use the GPU any more, start it again")
    return BackendError(text)


class Cuda:
    """`cuda.bindings.runtime` with exceptions instead of status codes."""

    def __init__(self) -> None:
        """Imports the package.

        Raises:
            BackendError: cuda-bindings is not installed.
        """
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise BackendError(
                f"cuda-bindings is not installed; `{install_bindings(None)}`"
            ) from error
        self._api: Any = runtime

    def new_stream(self) -> int:
        """A stream that does not wait for the default stream."""
        return int(self._call(self._api.cudaStreamCreateWithFlags, self._api.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        self._call(self._api.cudaStreamDestroy, stream)

    def synchronize(self, stream: int) -> None:
        """Waits for all work of the stream.

        Raises:
            BackendError: some of that work failed.
        """
        self._call(self._api.cudaStreamSynchronize, stream)

    def require_device(self, stream: int) -> None:
        """Asks whether CUDA still works, without waiting for the stream.

        TensorRT only says that a call failed. Its reason may be an error that ends all use of CUDA.

        Raises:
            DeviceLostError: it does not.
        """
        (status,) = self._api.cudaStreamQuery(stream)
        if int(status) in LOST_DEVICE:
            raise self._error(self._api.cudaStreamQuery, status)

    def device_alloc(self, size: int) -> int:
        """The address of `size` bytes on the device."""
        return int(self._call(self._api.cudaMalloc, size))

    def device_free(self, address: int) -> None:
        self._call(self._api.cudaFree, address)

    def host_alloc(self, size: int) -> int:
        """The address of `size` pinned bytes of host memory, which the device can access."""
        return int(self._call(self._api.cudaHostAlloc, size, self._api.cudaHostAllocDefault))

    def host_free(self, address: int) -> None:
        self._call(self._api.cudaFreeHost, address)

    def copy_to_device(self, target: int, source: int, size: int, stream: int) -> None:
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call(self._api.cudaMemcpyAsync, target, source, size, kind, stream)

    def copy_to_host(self, target: int, source: int, size: int, stream: int) -> None:
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call(self._api.cudaMemcpyAsync, target, source, size, kind, stream)

    def capture(self, stream: int, work: Callable[[], None]) -> Any:
        """An executable graph of the calls that `work` puts on `stream`, which are not run."""
        # Thread-local: other threads may go on to allocate memory, or to copy on their streams.
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call(self._api.cudaStreamBeginCapture, stream, mode)
        try:
            work()
        except BaseException:
            _, graph = self._api.cudaStreamEndCapture(stream)  # ends the capture
            if graph is not None:  # the failed call has left the capture valid
                self._api.cudaGraphDestroy(graph)
            raise
        graph = self._call(self._api.cudaStreamEndCapture, stream)
        try:
            return self._call(self._api.cudaGraphInstantiate, graph, 0)
        finally:
            self._call(self._api.cudaGraphDestroy, graph)

    def launch(self, graph: Any, stream: int) -> None:
        self._call(self._api.cudaGraphLaunch, graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        self._call(self._api.cudaGraphExecDestroy, graph)

    def _call(self, function: Any, *arguments: object) -> Any:
        status, *values = function(*arguments)
        if status != self._api.cudaError_t.cudaSuccess:
            raise self._error(function, status)
        return values[0] if values else None

    def _error(self, function: Any, status: Any) -> BackendError:
        _, text = self._api.cudaGetErrorString(status)
        words = f"{function.__name__} failed: {text.decode()} (CUDA {int(status)})"
        return cuda_error(int(status), words)


def host_view(address: int, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """The pinned memory at `address` as an array, which must not be used once it is freed."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = memoryview((ctypes.c_ubyte * size).from_address(address))
    return np.frombuffer(memory, dtype=dtype).reshape(shape)
