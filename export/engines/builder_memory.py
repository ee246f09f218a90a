"""How much memory the builder may use for a layer."""

import ctypes

from runtime.backends.gpu import DRIVER
from runtime.base.errors import BackendError

# Convolutions of these networks need far less; a Jetson shares its memory with everything else.
_MOST_WORKSPACE = 1 << 30


def workspace_bytes() -> int:
    """A gibibyte, or half of the GPU's free memory if that is less."""
    return min(_MOST_WORKSPACE, free_gpu_memory() // 2)


def free_gpu_memory() -> int:
    """Free bytes on the first CUDA device; BackendError if the driver does not answer."""
    driver = ctypes.CDLL(DRIVER)
    device, context = ctypes.c_int(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _check(driver.cuInit(0))
    _check(driver.cuDeviceGet(ctypes.byref(device), 0))
    # The primary context is the one that TensorRT will use too.
    _check(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
    _check(driver.cuCtxSetCurrent(context))
    _check(driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)))
    return free.value


def _check(status: int) -> None:
    if status != 0:
        raise BackendError(f"the NVIDIA driver does not tell its free memory (error {status})")
