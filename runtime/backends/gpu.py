"""The NVIDIA GPU of this machine, asked of the driver itself: needs no CUDA package."""

import ctypes
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.base.errors import GpuError

_LIBRARY = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_NAME_LENGTH = 256
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_INSTALL_DRIVER = (
    "install NVIDIA's driver (https://www.nvidia.com/drivers), if this machine has a GPU"
)
VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
# A user who may not open the devices gets errors that say nothing of it.
_PERMIT = "let this user open the GPU's devices (on a Jetson: the groups video and render)"
_VISIBLE = (
    "`nvidia-smi` lists the GPUs; CUDA_VISIBLE_DEVICES must not hide the one to use; if it does "
    f"not, {_PERMIT}"
)
_JETSON_RELEASE = Path("/etc/nv_tegra_release")


@dataclass(frozen=True)
class Gpu:
    """The first CUDA device."""

    name: str
    compute_capability: str  # "8.6"
    memory_bytes: int
    cuda_version: str  # newest CUDA that the driver supports, "13.0"

    @property
    def cuda_major(self) -> int:
        """The first number of `cuda_version`."""
        return int(self.cuda_version.split(".")[0])


@functools.cache
def find_gpu() -> Gpu:
    """The first CUDA device.

    Raises:
        GpuError: there is none that can be used; the error says what is missing.
    """
    driver, device = _first_device()
    version = _integer(driver.cuDriverGetVersion)
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


def gpu_if_any() -> Gpu | None:
    """The first CUDA device; None if there is none that can be used."""
    return None if missing_gpu() else find_gpu()


def visible_gpus() -> list[str]:
    """The CUDA devices that this process sees, in the words of CUDA_VISIBLE_DEVICES; may be none.

    The driver is asked without making a context, which would take memory of a GPU.
    """
    try:
        driver, _ = _first_device()
    except GpuError:
        return []
    count = _integer(driver.cuDeviceGetCount)
    named = os.environ.get(VISIBLE_DEVICES)
    words = map(str, range(count)) if named is None else map(str.strip, named.split(","))
    return list(words)[:count]  # what follows a word without a device counts for nothing


def free_gpu_memory() -> int:
    """Free bytes on the first CUDA device.

    Raises:
        GpuError: there is no device, or the driver does not answer.
    """
    driver, device = _first_device()
    context = ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    # The primary context is the one that TensorRT will use too.
    retained = driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
    _check(retained, "cuDevicePrimaryCtxRetain")
    _check(driver.cuCtxSetCurrent(context), "cuCtxSetCurrent")
    _check(driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)), "cuMemGetInfo")
    return free.value


def jetson_release() -> str | None:
    """The release of Jetson Linux, such as "R36 (release), REVISION: 4.3"; None elsewhere."""
    try:
        return _JETSON_RELEASE.read_text().splitlines()[0].strip("# ")
    except (OSError, IndexError):
        return None


def _first_device() -> tuple[Any, ctypes.c_int]:
    """The driver, started, and the handle of its first device."""
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError:
        raise GpuError(
            f"no NVIDIA driver ({_LIBRARY} is not found)", remedy=_INSTALL_DRIVER
        ) from None
    status = driver.cuInit(0)
    if status != _NO_DEVICE:
        _check(status, "cuInit")
    if status == _NO_DEVICE or _integer(driver.cuDeviceGetCount) == 0:
        visible = os.environ.get(VISIBLE_DEVICES)
        why = "" if visible is None else f": CUDA_VISIBLE_DEVICES is {visible!r}"
        raise GpuError(f"the NVIDIA driver finds no GPU{why}", remedy=_VISIBLE)
    device = ctypes.c_int()
    _check(driver.cuDeviceGet(ctypes.byref(device), 0), "cuDeviceGet")
    return driver, device


def _integer(function: "ctypes._NamedFuncPointer", *arguments: object) -> int:
    """What a call of the driver writes into its first argument."""
    value = ctypes.c_int()
    _check(function(ctypes.byref(value), *arguments), function.__name__)
    return value.value


def _check(status: int, call: str) -> None:
    if status != 0:
        raise GpuError(
            f"the NVIDIA driver does not work ({call} gave error {status})",
            remedy=f"{_PERMIT}; or {_INSTALL_DRIVER}",
        )
