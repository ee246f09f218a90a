"""Does an engine fit this machine? Asked before its file is read; TensorRT has no such test.

A serialized engine runs with the version that built it, on the GPU it was built for (NVIDIA's
support matrix); on another it fails late, or is slow, or wrong.
"""

import importlib.metadata
import platform
from dataclasses import dataclass
from importlib.util import find_spec

from runtime.backends.gpu import Gpu, find_gpu, missing_gpu
from runtime.backends.tensorrt_library import how_to_install, is_installed, load_tensorrt
from runtime.base.errors import BackendError, EngineMismatchError
from runtime.model.bundle import Bundle, rebuild_command
from runtime.model.card import EngineRecord, Flavor

_CUDA_BINDINGS = "cuda-bindings>=12.6"


@dataclass(frozen=True)
class Machine:
    """What an engine must fit."""

    flavor: Flavor
    tensorrt_version: str
    compute_capability: str
    gpu_name: str
    platform: str


def this_machine(flavor: Flavor) -> Machine:
    """This machine with a flavor of TensorRT; BackendError saying what is missing for it."""
    if not is_installed(flavor):
        raise BackendError(f"{flavor} is not installed; {how_to_install(flavor)}")
    if not is_installed_cuda():
        known = None if missing_gpu() else find_gpu()
        raise BackendError(f"cuda-bindings is not installed; `{install_cuda(known)}`")
    gpu = find_gpu()  # before the import, which loads a gigabyte
    if problem := cuda_mismatch(gpu):
        raise BackendError(f"{problem}; `{install_cuda(gpu)}`")
    return Machine(
        flavor=flavor,
        tensorrt_version=str(load_tensorrt(flavor).__version__),
        compute_capability=gpu.compute_capability,
        gpu_name=gpu.name,
        platform=this_platform(),
    )


def is_installed_cuda() -> bool:
    """Whether cuda-bindings can be found."""
    # The name `cuda` alone may be another package's.
    return find_spec("cuda") is not None and find_spec("cuda.bindings") is not None


def cuda_bindings() -> str | None:
    """The version of cuda-bindings; None where pip knows of none."""
    try:
        return importlib.metadata.version("cuda-bindings")
    except importlib.metadata.PackageNotFoundError:
        return None


def cuda_mismatch(gpu: Gpu) -> str | None:
    """Why cuda-bindings cannot work with the GPU's driver; None if they can."""
    installed = cuda_bindings()
    # They hold a CUDA runtime, which runs on drivers for its own major version and newer ones.
    if installed is None or major(installed) <= major(gpu.cuda_version):
        return None
    return f"cuda-bindings {installed} is too new for a driver of CUDA {gpu.cuda_version}"


def install_cuda(gpu: Gpu | None) -> str:
    """The command that installs cuda-bindings, for the driver of `gpu` if there is one."""
    limit = "" if gpu is None else f",<{major(gpu.cuda_version) + 1}"
    return f"pip install '{_CUDA_BINDINGS}{limit}'"


def major(version: str) -> int:
    """The first number of a version such as "13.0"."""
    return int(version.split(".")[0])


def this_platform() -> str:
    """Operating system and processor, as engine records name them: "Linux-x86_64"."""
    return f"{platform.system()}-{platform.machine()}"


def check_engine(bundle: Bundle, record: EngineRecord, machine: Machine) -> None:
    """EngineMismatchError with the first difference and the command that rebuilds."""
    if difference := _difference(bundle, record, machine):
        raise EngineMismatchError(
            f"{record.path} {difference}; build it here: {rebuild_command(bundle, record)}"
        )


def _difference(bundle: Bundle, record: EngineRecord, machine: Machine) -> str | None:
    onnx = bundle.card.file(record.precision)
    if onnx is None:
        return f"was built from a {record.precision} ONNX file that the bundle no longer lists"
    if onnx.sha256 != record.onnx_sha256:
        return f"was built from another {onnx.path} than the bundle holds"
    if record.flavor != machine.flavor:
        return f"is for {record.flavor}, not for {machine.flavor}"
    if record.platform != machine.platform:
        return f"is for {record.platform}, this machine is {machine.platform}"
    if record.tensorrt_version != machine.tensorrt_version:
        return (
            f"was built by {record.flavor} {record.tensorrt_version}, "
            f"this machine has {machine.tensorrt_version}"
        )
    if machine.compute_capability not in record.compute_capability:
        return (
            f"is for compute capability {', '.join(record.compute_capability)}, "
            f"this GPU ({machine.gpu_name}) has {machine.compute_capability}"
        )
    if record.gpu_name not in (None, machine.gpu_name):
        return f"was built on {record.gpu_name}, this GPU is {machine.gpu_name}"
    return None
