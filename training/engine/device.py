"""Which device trains and how its memory is kept; what a result calls it, and the versions."""

import ctypes
import platform
import re
import sys
from importlib import metadata
from pathlib import Path

import torch

from runtime.base.errors import UserError
from runtime.base.resources import usable_cores
from training.engine.process_group import started_by_torchrun

# Settings of glibc's mallopt(3), by their numbers in malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_LARGEST_BLOCK = 2**30  # bytes; a single tensor of a step is smaller
_PADDING = 2**26
_PACKAGES = ("torch", "torchvision", "numpy", "msgspec")
_CODE = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")  # such as sm_90a: for capability 9.0


def choose_device(word: str, *, local_rank: int = 0) -> torch.device:
    """The device for "auto" (CUDA if there is any that torch can use), "cpu" or "cuda".

    On a CPU, torch gets no more threads than a container's share of the processors allows. On a
    GPU, float32 means float32 from now on: by default torch rounds the factors of its convolutions
    to the 10 bits of TF32.

    Raises:
        UserError: if the device does not exist here, or torch has no kernels for it.
    """
    if word == "cpu" or (word == "auto" and not torch.cuda.is_available()):
        return _processors()
    if not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA device here; use --device cpu")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {local_rank} of torchrun needs a GPU of its own and there are "
            f"{torch.cuda.device_count()}; start fewer with --nproc-per-node, or use --device cpu"
        )
    device = torch.device("cuda", local_rank)
    unusable = _not_built_for(device)
    if unusable is None:
        # The newer `conv.fp32_precision` lets torch._inductor fail, which still reads this one.
        torch.backends.cudnn.allow_tf32 = False
        return device
    # Of several processes, each would decide for itself, and they must not differ.
    if word == "auto" and started_by_torchrun()[1] == 1:
        print(f"the CPU is used, because {unusable}", file=sys.stderr, flush=True)  # noqa: T201
        return _processors()
    raise UserError(
        f"--device {word}: {unusable}; use --device cpu, or install a torch that was built for it"
    )


def _processors() -> torch.device:
    if (cores := usable_cores()) < torch.get_num_threads():
        torch.set_num_threads(cores)
    return torch.device("cpu")


def _not_built_for(device: torch.device) -> str | None:
    """Why the torch that is installed has no kernels for a GPU; None if it has, or says nothing."""
    built = torch.cuda.get_arch_list()  # empty in some builds; on ROCm, words of another kind
    codes = [found for word in built if (found := _CODE.fullmatch(word))]
    if not built or len(codes) < len(built):
        return None
    capability = torch.cuda.get_device_capability(device)
    if any(_runs_on(code, capability) for code in codes):
        return None
    return (
        f"{torch.cuda.get_device_name(device)} has compute capability "
        f"{capability[0]}.{capability[1]}, and torch {torch.__version__} was built for "
        f"{', '.join(built)}"
    )


def _runs_on(code: re.Match[str], capability: tuple[int, int]) -> bool:
    """Whether a GPU of a capability runs this code (CUDA's C++ Programming Guide, compatibility).

    Machine code (sm) runs on the same major version, from its minor version on, and PTX (compute)
    on everything newer. With an "a", either runs on one capability, with an "f" on one family.
    """
    kind, major, minor, bound = code.groups()
    own = int(major), int(minor)
    if bound == "a":
        return capability == own
    if kind == "sm" or bound == "f":
        return capability[0] == own[0] and capability >= own
    return capability >= own


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
