"""ONNX Runtime's execution providers: which ones are here, and whether they start."""

import contextlib
import functools
import importlib
import io
import logging
import os
from typing import Any

from runtime.backends.gpu import missing_gpu
from runtime.base.errors import BackendError, first_line
from runtime.base.resources import usable_cores

PROVIDERS: dict[str, str] = {
    "onnx-cpu": "CPUExecutionProvider",
    "onnx-cuda": "CUDAExecutionProvider",
}
# TF32 has a mantissa of 10 bits. An fp32 file must be computed in fp32, as engines are.
OPTIONS: dict[str, dict[str, str]] = {"onnx-cpu": {}, "onnx-cuda": {"use_tf32": "0"}}
# onnxruntime and onnxruntime-gpu install into the same folder. Where both are installed, the one
# that came last is used, and to uninstall either of them removes files of the other.
UNINSTALL = "pip uninstall -y onnxruntime onnxruntime-gpu"
REINSTALL = f"{UNINSTALL}; pip install onnxruntime"
_PACKAGE, _NEEDED = "onnxruntime", "InferenceSession"
_NO_LOG = 4  # fatal errors only: our functions return what goes wrong
_IDENTITY = (  # an ONNX model of one float32, y = x
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01'
    b"\x12\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)
_log = logging.getLogger(__name__)


def load_onnxruntime() -> Any:
    """The package `onnxruntime`. It is imported when needed, because that takes 0.2 s.

    Raises:
        ModuleNotFoundError: it is not installed.
        BackendError: it is damaged; the message has the command that installs it again.
    """
    found, damage = _imported()
    if damage is not None:
        raise BackendError(f"{damage}; install it again: `{REINSTALL}`")
    return found


def _imported() -> tuple[Any, str | None]:
    """The package, and what is wrong with it if parts of it are missing.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    # From 1.32 on it reports its use to its makers, unless this is set before it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    reason = f"it has no {_NEEDED}"
    try:
        found = importlib.import_module(_PACKAGE)
    except ImportError as error:
        if error.name == _PACKAGE and isinstance(error, ModuleNotFoundError):
            raise
        found, reason = None, first_line(error)
    return found, None if hasattr(found, _NEEDED) else f"{_PACKAGE} is damaged ({reason})"


def version_and_providers() -> tuple[str, list[str]]:
    """The version of onnxruntime, or what is wrong with it, and the providers that are built in."""
    onnxruntime, damage = _imported()
    if damage is not None:
        return damage.removeprefix(f"{_PACKAGE} is "), []
    return onnxruntime.__version__, list(onnxruntime.get_available_providers())


def missing_provider(backend: str) -> str | None:
    """What `backend` lacks: the build of onnxruntime, or the GPU. None if both are here."""
    if (reason := missing_build(backend)) or backend == "onnx-cpu":
        return reason
    missing = missing_gpu()
    return None if missing is None else str(missing)


def missing_build(backend: str) -> str | None:
    """Why the installed onnxruntime has no `backend`, in a sentence; None if it has it."""
    onnxruntime, damage = _imported()
    if damage is not None or PROVIDERS[backend] in onnxruntime.get_available_providers():
        return damage
    return f"onnxruntime {onnxruntime.__version__} is built without {PROVIDERS[backend]}"


def threads_of_operator() -> int:
    """How many threads share an operator where nobody has chosen; 0: as many as ONNX Runtime takes.

    It takes one for each core of the machine and binds each to a core, also to those that this
    process may not use (`taskset`, systemd's CPUAffinity, a container's cpuset).
    """
    allowed = usable_cores()
    return allowed if allowed < (os.cpu_count() or 1) else 0


def failed_start(backend: str) -> str | None:
    """Why a provider does not start, although it is built in; None if it starts.

    The GPU build of onnxruntime can be installed without the right versions of CUDA and cuDNN.
    """
    onnxruntime = load_onnxruntime()
    load_provider(backend)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _NO_LOG
    try:
        session = onnxruntime.InferenceSession(_IDENTITY, options, providers=[PROVIDERS[backend]])
    except Exception as error:  # the errors of onnxruntime have no base class of their own
        return f"{PROVIDERS[backend]} does not start ({first_line(error)})"
    if session.get_providers()[0] != PROVIDERS[backend]:
        return f"{PROVIDERS[backend]} does not start, CUDA or cuDNN is missing or too old"
    return None


@functools.cache
def load_provider(backend: str) -> None:
    """Loads CUDA and cuDNN from NVIDIA's wheels, where the system's loader does not look.

    `pip install 'onnxruntime-gpu[cuda,cudnn]'` installs these wheels. Nothing is raised if one is
    missing: the start of the provider will show it.
    """
    if backend == "onnx-cpu":
        return
    said = io.StringIO()  # onnxruntime prints what it does not find, and stdout is for answers
    with contextlib.redirect_stdout(said):
        load_onnxruntime().preload_dlls()
    if said.getvalue():
        _log.info("%s", said.getvalue().strip())
