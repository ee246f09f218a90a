"""The list of all backends. A new backend is a file with its record, and one line here."""

from runtime.backends.backend import Backend
from runtime.backends.engine_backends import TENSORRT, TENSORRT_RTX
from runtime.backends.onnx_backends import ONNX_CPU, ONNX_CUDA
from runtime.base.errors import UserError

BACKENDS: tuple[Backend, ...] = (ONNX_CPU, ONNX_CUDA, TENSORRT, TENSORRT_RTX)


def backend_names() -> tuple[str, ...]:
    """The names of all backends, in the order of the list."""
    return tuple(backend.name for backend in BACKENDS)


def backend_named(name: str) -> Backend:
    """The backend of that name.

    Raises:
        UserError: there is none.
    """
    for backend in BACKENDS:
        if backend.name == name:
            return backend
    raise UserError(f"unknown backend {name!r}; choose one of {', '.join(backend_names())}")


def wanted_backends(name: str | None) -> list[Backend]:
    """The backend of that name; with None all backends, the one with the highest priority first.

    Raises:
        UserError: there is none of that name.
    """
    if name is not None:
        return [backend_named(name)]
    return sorted(BACKENDS, key=lambda backend: -backend.priority)
