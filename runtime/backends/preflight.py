"""Checks before an engine is opened: can this machine run engines, and does this one fit it?

A serialized engine runs with the version of TensorRT that built it, on the GPU that it was built
for (see NVIDIA's support matrix). On another GPU it fails late, or is slow, or gives wrong answers.
TensorRT itself has no such check.
"""

import platform
from dataclasses import dataclass

from runtime.backends.backend import Problem
from runtime.backends.cuda_runtime import (
    bindings_are_installed,
    bindings_mismatch,
    install_bindings,
)
from runtime.backends.gpu import find_gpu, gpu_if_any, jetson_release, missing_gpu
from runtime.backends.tensorrt_library import (
    INSTALL_ON_JETSON,
    install_command,
    is_installed,
    load_tensorrt,
)
from runtime.base.errors import BackendError, EngineMismatchError
from runtime.model.bundle import Bundle, rebuild_command
from runtime.model.card import EngineRecord, Flavor

_JETSON_TENSORRT = (
    f"{INSTALL_ON_JETSON}, and make the virtual environment with "
    "`python3 -m venv --system-site-packages`"
)


@dataclass(frozen=True)
class Machine:
    """The properties of a machine that an engine must fit."""

    flavor: Flavor
    tensorrt_version: str
    compute_capability: str
    gpu_name: str
    platform: str


def engine_problem(flavor: Flavor) -> Problem | None:
    """Why no engine of this kind can run on this machine; None if one can."""
    if not is_installed(flavor):
        on_jetson = flavor == "tensorrt" and jetson_release() is not None
        install = _JETSON_TENSORRT if on_jetson else install_command(flavor)
        return Problem(f"{flavor} is not installed", install)
    if not bindings_are_installed():
        return Problem("cuda-bindings is not installed", install_bindings(gpu_if_any()))
    if missing := missing_gpu():
        return Problem(str(missing), missing.remedy)
    gpu = find_gpu()
    if reason := bindings_mismatch(gpu):
        return Problem(reason, install_bindings(gpu))
    try:
        trt = load_tensorrt(flavor)  # last, because it loads a gigabyte
    except BackendError as error:
        return Problem(str(error), install_command(flavor))
    capability = gpu.compute_capability
    supported = getattr(trt, "ComputeCapability", None)  # only TensorRT-RTX names what it supports
    if supported is not None and not hasattr(supported, f"SM{capability.replace('.', '')}"):
        return Problem(f"{flavor} does not support compute capability {capability}", "use tensorrt")
    return None


def this_machine(flavor: Flavor) -> Machine:
    """This machine with a flavor of TensorRT.

    Raises:
        BackendError: no engine of this kind can run here; the message says what is missing.
    """
    if problem := engine_problem(flavor):
        raise BackendError(str(problem))
    gpu = find_gpu()
    return Machine(
        flavor=flavor,
        tensorrt_version=str(load_tensorrt(flavor).__version__),
        compute_capability=gpu.compute_capability,
        gpu_name=gpu.name,
        platform=this_platform(),
    )


def this_platform() -> str:
    """Operating system and processor, as engine records name them: "Linux-x86_64"."""
    return f"{platform.system()}-{platform.machine()}"


def engine_mismatch(
    bundle: Bundle, record: EngineRecord, machine: Machine
) -> EngineMismatchError | None:
    """The first difference and the command that rebuilds; None if the engine fits the machine."""
    if difference := _difference(bundle, record, machine):
        return EngineMismatchError(
            f"{record.path} {difference}; build it here: {rebuild_command(bundle, record)}"
        )
    return None


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
