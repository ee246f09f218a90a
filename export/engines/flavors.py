"""The TensorRT packages that can build an engine, and what differs between them.

`tensorrt` up to 8.6 (JetPack 6.0) is weakly typed: builder flags allow lower precisions. From 10 on
networks are strongly typed: they compute in the precision that the ONNX file says, and in 11 the
flags are gone. `tensorrt-rtx`, for desktop RTX GPUs, builds for a named compute capability and
needs no GPU. Everything else is common to them, see `export.engines.build_engine`.
"""

import re
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from export.engines.precision_check import lower_of, precision_of_engine, precision_of_network
from runtime.backends.gpu import find_gpu, missing_gpu
from runtime.backends.tensorrt_library import (
    how_to_install,
    is_installed,
    last_errors,
    load_tensorrt,
    tensorrt_logger,
)
from runtime.base.errors import BackendError, UserError
from runtime.model.card import Flavor, Precision

RTX_CAPABILITIES = ("8.6", "8.9", "12.0")  # built for without a GPU: RTX 30, 40 and 50
_FIRST_STRONGLY_TYPED = 9
_CAPABILITY = re.compile(r"\d{1,2}\.\d")


class EngineFlavor(ABC):
    """One TensorRT package of one API generation."""

    name: ClassVar[Flavor]
    newest_opset: ClassVar[int] = 20
    keeps_timing_cache: ClassVar[bool] = True

    def __init__(self, trt: Any, log: Any) -> None:
        self.trt = trt
        self.log = log  # the logger of `runtime.backends.tensorrt_library`: a process has but one
        self.version: str = trt.__version__

    @abstractmethod
    def capabilities(self, wanted: str | None) -> tuple[str, ...]:
        """The compute capabilities to build for: `wanted` ("8.6,8.9") checked, or a default."""

    @abstractmethod
    def gpu_name(self, capability: str) -> str | None:
        """The GPU model that engines of that capability are for; None if for all that have it."""

    def network_flags(self) -> int:
        """Flags of `create_network`, by name: their bits mean other things in other versions."""
        # A deprecated member in 11, where all networks are strongly typed.
        typed = getattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return 0 if typed is None else 1 << int(typed)

    def configure(self, config: Any, *, precision: Precision, capability: str) -> None:
        """Sets what only this package has or needs."""
        if precision == "fp32":
            config.clear_flag(self.trt.BuilderFlag.TF32)  # a 10-bit mantissa is not fp32
        self._set_target(config, capability)

    def built_precision(self, network: Any, plan: bytes) -> Precision:
        """The precision that the finished engine computes in."""
        return precision_of_network(self.trt, network)

    @abstractmethod
    def _set_target(self, config: Any, capability: str) -> None:
        """Says which GPU the engine is for."""


class TensorRt(EngineFlavor):
    """`tensorrt` 10 and 11: builds on the GPU that will run the engine."""

    name = "tensorrt"

    def capabilities(self, wanted: str | None) -> tuple[str, ...]:
        gpu = find_gpu()
        if wanted is not None and parse_capabilities(wanted) != (gpu.compute_capability,):
            raise UserError(
                f"tensorrt builds for the GPU it runs on ({gpu.name}, compute capability "
                f"{gpu.compute_capability}), not for {wanted}; build on that GPU"
            )
        return (gpu.compute_capability,)

    def gpu_name(self, capability: str) -> str | None:
        return find_gpu().name

    def built_precision(self, network: Any, plan: bytes) -> Precision:
        # An inspector does not look into fused regions: it can tell of less, never of more.
        told = precision_of_engine(self.trt, self.log, plan)
        typed = super().built_precision(network, plan)
        return typed if told is None else lower_of(told, typed)

    def _set_target(self, config: Any, capability: str) -> None:
        # Convolutions need no other library; leaving cuBLAS and cuDNN out saves memory.
        sources = config.get_tactic_sources()
        for name in ("CUBLAS", "CUBLAS_LT", "CUDNN"):
            if hasattr(self.trt.TacticSource, name):
                sources &= ~(1 << int(getattr(self.trt.TacticSource, name)))
        config.set_tactic_sources(sources)


class WeaklyTypedTensorRt(TensorRt):
    """`tensorrt` 8: reads opset 17, and uses lower precisions where flags allow them."""

    # Its parser (onnx-tensorrt 8.6) overlooks that opset 18 made the axes of ReduceMean an input,
    # and takes the mean over every axis. By its source, it would read the rest of our graphs.
    newest_opset = 17

    def network_flags(self) -> int:
        return 1 << int(self.trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)

    def configure(self, config: Any, *, precision: Precision, capability: str) -> None:
        super().configure(config, precision=precision, capability=capability)
        # The runtime has an execution context for each CUDA graph; from 10 on they may always share
        # the profile.
        config.set_preview_feature(self.trt.PreviewFeature.PROFILE_SHARING_0806, True)
        if precision in ("fp16", "int8"):
            config.set_flag(self.trt.BuilderFlag.FP16)
        if precision == "int8":
            config.set_flag(self.trt.BuilderFlag.INT8)

    def built_precision(self, network: Any, plan: bytes) -> Precision:
        # The network's types are those of the ONNX file; flags decide what becomes of them.
        told = precision_of_engine(self.trt, self.log, plan)
        if told is None:
            raise BackendError(
                f"tensorrt {self.version} does not tell the precision it has built: "
                f"{last_errors(self.log)}"
            )
        return told


class TensorRtRtx(EngineFlavor):
    """`tensorrt-rtx`: for named compute capabilities, with or without a GPU."""

    name = "tensorrt-rtx"
    keeps_timing_cache = False  # tactics are chosen when the engine is loaded

    def capabilities(self, wanted: str | None) -> tuple[str, ...]:
        if wanted is not None:
            found = parse_capabilities(wanted)
        elif missing_gpu() is None:
            found = (find_gpu().compute_capability,)
        else:
            found = RTX_CAPABILITIES
        for capability in found:
            self._member(capability)
        return found

    def gpu_name(self, capability: str) -> str | None:
        return None  # nothing is tried out on the GPU, not even where there is one

    def _set_target(self, config: Any, capability: str) -> None:
        config.num_compute_capabilities = 1
        if config.set_compute_capability(self._member(capability), 0) is False:
            raise BackendError(f"tensorrt-rtx {self.version} refused capability {capability}")
        # Memory that the engine allocates by itself at run time would rule out a CUDA graph of it.
        config.set_flag(self.trt.BuilderFlag.REQUIRE_USER_ALLOCATION)

    def _member(self, capability: str) -> Any:
        members = self.trt.ComputeCapability
        name = f"SM{capability.replace('.', '')}"
        if not hasattr(members, name):
            known = [f"{m[2:-1]}.{m[-1]}" for m in dir(members) if re.fullmatch(r"SM\d+", m)]
            raise UserError(
                f"compute capability {capability} is unknown to tensorrt-rtx {self.version}; it "
                f"builds for {', '.join(sorted(known, key=float))} (desktop RTX GPUs). Jetson and "
                "data-centre GPUs need `--flavor tensorrt`"
            )
        return getattr(members, name)


def load_flavor(name: Flavor | None) -> EngineFlavor:
    """Imports the package `name`, or with None the one that serves this machine best.

    That is `tensorrt` where it is installed and there is a GPU, else `tensorrt-rtx`. BackendError
    with the install command if it is missing.
    """
    if name is None:
        without_gpu = is_installed("tensorrt-rtx") and missing_gpu() is not None
        name = "tensorrt" if is_installed("tensorrt") and not without_gpu else "tensorrt-rtx"
        if not is_installed(name):
            raise BackendError(
                "no TensorRT is installed. For desktop RTX GPUs, which it builds for without "
                f"having one: {how_to_install('tensorrt-rtx')}; for any NVIDIA GPU, on that "
                f"machine: {how_to_install('tensorrt')}"
            )
    if not is_installed(name):
        raise BackendError(f"{name} is not installed; {how_to_install(name)}")
    if name == "tensorrt-rtx":
        return TensorRtRtx(load_tensorrt(name), tensorrt_logger(name))
    if (problem := missing_gpu()) is not None:
        raise BackendError(
            f"tensorrt builds on the GPU that runs the engine: {problem}; "
            "`--flavor tensorrt-rtx` builds without one"
        )
    return tensorrt_of_version(load_tensorrt(name), tensorrt_logger(name))


def tensorrt_of_version(trt: Any, log: Any) -> TensorRt:
    """The class for the generation of a `tensorrt` module."""
    major = int(trt.__version__.split(".")[0])
    kind = TensorRt if major >= _FIRST_STRONGLY_TYPED else WeaklyTypedTensorRt
    return kind(trt, log)


def parse_capabilities(text: str) -> tuple[str, ...]:
    """The capabilities of "8.6,8.9", each once; UserError for anything else."""
    found = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    for word in found:
        if not _CAPABILITY.fullmatch(word):
            raise UserError(
                f"compute capability {word!r} is not of the form 8.6; "
                "expected a list such as 8.6,8.9,12.0"
            )
    return found
