"""Which device trains and how its memory is kept; what a result calls it, and the versions."""

import ctypes
import platform
from importlib import metadata
from pathlib import Path

import torch

from runtime.base.errors import UserError
from runtime.base.resources import usable_cores

# Settings of glibc's mallopt(3), by their numbers in malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_LARGEST_BLOCK = 2**30  # bytes; a single tensor of a step is smaller
_PADDING = 2**26
_PACKAGES = ("torch", "torchvision", "numpy", "msgspec")


def choose_device(word: str, *, local_rank: int = 0) -> torch.device:
    """The device for "auto" (CUDA if there is any), "cpu" or "cuda".

    On a CPU, torch gets no more threads than a container's share of the processors allows.

    Raises:
        UserError: if the device does not exist here.
    """
    if word == "cpu" or (word == "auto" and not torch.cuda.is_available()):
        if (cores := usable_cores()) < torch.get_num_threads():
            torch.set_num_threads(cores)
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA device here; use --device cpu")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {local_rank} of torchrun needs a GPU of its own and there are "
            f"{torch.cuda.device_count()}; start fewer with --nproc-per-node, or use --device cpu"
        )
    return torch.device("cuda", local_rank)


def keep_freed_memory(device: torch.device) -> bool:
    """Lets a process that computes on a CPU use freed memory again, and not give it back.

    By default, glibc maps each block of 32 MiB or more anew, and gives back what is free at the
    end. Each step and each batch of an evaluation would then have the kernel clear about as much
    memory as it uses. The process keeps its largest size until it ends.

    Returns:
        Whether it is a CPU, and there is a glibc, which has these settings.
    """
    if device.type != "cpu":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    settings = {_MMAP_THRESHOLD: _LARGEST_BLOCK, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: _PADDING}
    return all(mallopt(setting, value) == 1 for setting, value in settings.items())


def has_bf16() -> bool:
    """Whether the GPU computes in bfloat16 itself, and not by emulation."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def has_amx() -> bool:
    """Whether the processor has Intel's matrix units for bfloat16, which Linux lists as a flag."""
    return "amx_bf16" in _processor_entry("flags").split()


def device_name(device: torch.device) -> str:
    """What a result states: "NVIDIA H100 80GB HBM3", or the processor and torch's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Python's version and those of the packages that decide a result."""
    found = {name: metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **found}


def _processor() -> str:
    return _processor_entry("model name") or platform.processor() or platform.machine()


def _processor_entry(name: str) -> str:
    """What Linux says of the first core under `name`; "" if it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    found = (line.split(":", 1)[1].strip() for line in lines if line.startswith(name))
    return next(found, "")
