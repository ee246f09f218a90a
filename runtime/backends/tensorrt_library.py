"""The packages TensorRT and TensorRT-RTX: whether they are installed, and their one logger."""

import functools
import importlib
import importlib.util
import logging
from collections import deque
from typing import Any, NamedTuple

from runtime.backends.gpu import gpu_if_any
from runtime.base.errors import BackendError
from runtime.model.card import Flavor

_log = logging.getLogger(__name__)
_MODULES: dict[Flavor, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_INSTALL: dict[Flavor, str] = {
    "tensorrt": "pip install 'tensorrt<12' cuda-bindings --extra-index-url https://pypi.nvidia.com",
    "tensorrt-rtx": "pip install tensorrt-rtx-cu13 cuda-bindings",
}
# The package `tensorrt` brings libraries of CUDA 13, which do not start on an older driver.
_CUDA_13 = 13
_INSTALL_FOR_CUDA_12 = (
    "pip install 'tensorrt-cu12<12' 'cuda-bindings<13' --extra-index-url https://pypi.nvidia.com"
)
INSTALL_ON_JETSON = "sudo apt install python3-libnvinfer"
_KEPT_MESSAGES = 3
_NO_CUDA = "CUDA initialization failure"  # in 8.6 a warning; then no object is made


def install_command(flavor: Flavor) -> str:
    """The command that installs a flavor, for the driver of this machine if there is one."""
    gpu = gpu_if_any()
    if flavor == "tensorrt" and gpu is not None and gpu.cuda_major < _CUDA_13:
        return _INSTALL_FOR_CUDA_12
    return _INSTALL[flavor]


def how_to_install(flavor: Flavor) -> str:
    """The commands that install a flavor, for a sentence."""
    jetson = f", on a Jetson `{INSTALL_ON_JETSON}`" if flavor == "tensorrt" else ""
    return f"`{install_command(flavor)}`{jetson}"


def is_installed(flavor: Flavor) -> bool:
    """Whether the module can be found; importing it may still fail."""
    return importlib.util.find_spec(_MODULES[flavor]) is not None


@functools.cache
def load_tensorrt(flavor: Flavor) -> Any:
    """The module of a flavor.

    Raises:
        BackendError: it cannot be imported; the message has the command that installs it.
    """
    try:
        return importlib.import_module(_MODULES[flavor])
    except ImportError as error:
        raise BackendError(
            f"{flavor} cannot be imported ({error}); install it: {how_to_install(flavor)}"
        ) from error


def installed_version(flavor: Flavor) -> str | None:
    """The version of a flavor, or what is wrong with it; None where it is not installed."""
    if not is_installed(flavor):
        return None
    try:
        return str(load_tensorrt(flavor).__version__)
    except BackendError as error:
        return f"broken: {error}"


@functools.cache
def tensorrt_logger(flavor: Flavor) -> Any:
    """The logger of this process. There is only one, because TensorRT ignores a second one.

    It passes TensorRT's messages on to `logging`. It also keeps the last errors in `errors`,
    because TensorRT's calls return only None or False when they fail.
    """
    trt = load_tensorrt(flavor)

    class Logger(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=_KEPT_MESSAGES)

        def log(self, severity: Any, message: str) -> None:
            failed = severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)
            if failed or message.startswith(_NO_CUDA):
                self.errors.append(message)
                # Not as an error: the exception of the failed call will have this message.
                _log.info("%s: %s", flavor, message)
            elif severity == trt.ILogger.WARNING:
                _log.warning("%s: %s", flavor, message)
            else:
                _log.debug("%s: %s", flavor, message)

    return Logger()


class LoadedEngine(NamedTuple):
    """A deserialised engine, and the TensorRT runtime that must live as long as the engine."""

    runtime: Any
    engine: Any


def load_engine(trt: Any, logger: Any, plan: bytes) -> LoadedEngine | None:
    """Deserialises the content of an engine's file; None if TensorRT refuses it.

    Deserialising trusts what it reads, so `plan` must come from this process, or its digest must
    have been checked. `last_errors` says why it was refused.
    """
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    return None if engine is None else LoadedEngine(runtime, engine)


def last_errors(logger: Any) -> str:
    """The last errors that the logger got, in one line. They are then forgotten."""
    messages = "; ".join(" ".join(message.split()) for message in logger.errors)
    logger.errors.clear()
    return messages or "TensorRT gave no reason"
