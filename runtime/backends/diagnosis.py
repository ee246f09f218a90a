"""What this machine has for each backend, and what would mend what is missing."""

import os
import platform

import msgspec

from runtime.backends import registry
from runtime.backends.backend import Backend
from runtime.backends.cuda_runtime import bindings_version
from runtime.backends.gpu import Gpu, gpu_if_any, jetson_release
from runtime.backends.onnx_provider import version_and_providers
from runtime.backends.preflight import this_platform
from runtime.backends.tensorrt_library import installed_version
from runtime.base.resources import usable_cores
from runtime.model.card import FLAVORS


class BackendState(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a backend runs here; if not, why, and what would mend it.

    `notes` are sentences on precisions that it runs, and from which nothing is gained.
    """

    backend: str
    runs: bool
    reason: str | None = None
    remedy: str | None = None
    notes: list[str] | msgspec.UnsetType = msgspec.UNSET


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides which backends run."""

    python: str
    platform: str
    jetson: str | None
    cores: int
    memory_gib: float
    onnxruntime: str  # version, or what is wrong with it
    providers: list[str]
    tensorrt: dict[str, str | None]  # flavor: version, or None where it is not installed
    cuda_bindings: str | None
    gpu: Gpu | None
    backends: list[BackendState]


def diagnose() -> Diagnosis:
    """Looks at this machine. Imports what is installed, runs no model."""
    onnxruntime, providers = version_and_providers()
    return Diagnosis(
        python=platform.python_version(),
        platform=this_platform(),
        jetson=jetson_release(),
        cores=usable_cores(),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1),
        onnxruntime=onnxruntime,
        providers=providers,
        tensorrt={flavor: installed_version(flavor) for flavor in FLAVORS},
        cuda_bindings=bindings_version(),
        gpu=gpu_if_any(),
        backends=[_state(backend) for backend in registry.BACKENDS],
    )


def _state(backend: Backend) -> BackendState:
    problem = backend.problem()
    notes = list(backend.doubts.values()) or msgspec.UNSET
    if problem is None:
        return BackendState(backend=backend.name, runs=True, notes=notes)
    return BackendState(
        backend=backend.name, runs=False, reason=problem.reason, remedy=problem.remedy, notes=notes
    )
