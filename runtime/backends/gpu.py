"""The NVIDIA GPU of this machine, asked of the driver itself: needs no CUDA package."""

import ctypes
import functools
import os
from dataclasses import dataclass

from runtime.base.errors import GpuError

DRIVER = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_NAME_LENGTH = 256
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_INSTALL_DRIVER = (
    "install NVIDIA's driver (https://www.nvidia.com/drivers), if this machine has a GPU"
)
_VISIBLE = "`nvidia-smi` lists the GPUs; CUDA_VISIBLE_DEVICES must not hide the one to use"


@dataclass(frozen=True)
class Gpu:
    """The first CUDA device."""

    name: str
    compute_capability: str  # "8.6"
    memory_bytes: int
    cuda_version: str  # newest CUDA that the driver supports, "13.0"


@functools.cache
def find_gpu() -> Gpu:
    """The first CUDA device; GpuError saying what is missing if there is none."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        raise GpuError(
            f"no NVIDIA driver ({DRIVER} is not found)", remedy=_INSTALL_DRIVER
        ) from None
    status = driver.cuInit(0)
    if status != _NO_DEVICE:
        _check(status, "cuInit")
    if status == _NO_DEVICE or _integer(driver.cuDeviceGetCount) == 0:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = "" if visible is None else f": CUDA_VISIBLE_DEVICES is {visible!r}"
        raise GpuError(f"the NVIDIA driver finds no GPU{why}", remedy=_VISIBLE)
    version = _integer(driver.cuDriverGetVersion)
    device = ctypes.c_int()
    _check(driver.cuDeviceGet(ctypes.byref(device), 0), "cuDeviceGet")
    name = ctypes.create_string_buffer(_NAME_LENGTH)
    _check(driver.cuDeviceGetName(name, _NAME_LENGTH, device), "cuDeviceGetName")
    memory = ctypes.c_size_t()
    _check(driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device), "cuDeviceTotalMem")
    major = _integer(driver.cuDeviceGetAttribute, _MAJOR, device)
    minor = _integer(driver.cuDeviceGetAttribute, _MINOR, device)
    return Gpu(
        name=name.value.decode(errors="replace"),
        compute_capability=f"{major}.{minor}",
        memory_bytes=memory.value,
        cuda_version=f"{version // 1000}.{version % 1000 // 10}",
    )


def missing_gpu() -> GpuError | None:
    """Why there is no usable GPU; None if there is one."""
    try:
        find_gpu()
    except GpuError as error:
        return error
    return None


def _integer(function: "ctypes._NamedFuncPointer", *arguments: object) -> int:
    value = ctypes.c_int()
    _check(function(ctypes.byref(value), *arguments), function.__name__)
    return value.value


def _check(status: int, call: str) -> None:
    if status != 0:
        raise GpuError(
            f"the NVIDIA driver does not work ({call} gave error {status})", remedy=_INSTALL_DRIVER
        )
