"""The TensorRT packages that can build an engine, and what differs between them.

`tensorrt` up to 8.6 (JetPack 6.0) is weakly typed: flags of the builder allow lower precisions.
From 10 on networks are strongly typed: they compute in the precision that the ONNX file says, and
version 11 has no such flags. `tensorrt-rtx` is for desktop RTX GPUs; it builds for a named compute
capability and needs no GPU. `export.engines.build_engine` has what they have in common.
"""

import re
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

from export.engines.precision_check import lower_of, precision_of_engine, precision_of_network
from runtime.backends.gpu import find_gpu, free_gpu_memory, missing_gpu
from runtime.backends.tensorrt_library import (
    LoadedEngine,
    how_to_install,
    is_installed,
    last_errors,
    load_engine,
    load_tensorrt,
    tensorrt_logger,
)
from runtime.base.errors import BackendError, UserError
from runtime.model.card import Flavor, Precision

Target = tuple[str, ...]  # the compute capabilities of the GPUs that one engine is for

# RTX 30, 40 and 50: what one engine is for where there is no GPU. NVIDIA's support matrix of
# TensorRT-RTX 1.0 to 1.7 calls engines of these three portable, and keeps Turing (7.5) apart.
RTX_CAPABILITIES: Target = ("8.6", "8.9", "12.0")
# The convolutions of these networks need far less, and a Jetson's GPU shares the main memory.
_MOST_WORKSPACE = 1 << 30  # bytes
_FIRST_STRONGLY_TYPED = 9
_CAPABILITY = re.compile(r"\d{1,2}\.\d")


class ReadBack(NamedTuple):
    """The precision of a finished engine.

    `loaded` is the deserialised engine, if the precision was read from it, so that nobody has to
    deserialise the same plan again.
    """

    precision: Precision
    loaded: LoadedEngine | None


class EngineFlavor(ABC):
    """One TensorRT package of one API generation.

    Attributes:
        name: the word for it in commands and cards.
        newest_opset: the newest ONNX opset that it reads.
        keeps_timing_cache: whether the timings of one build make the next one faster.
        trt: the Python module.
        log: its logger, from `runtime.backends.tensorrt_library`; a process has only one.
        version: the version of the module, such as "10.3.0".
    """

    name: ClassVar[Flavor]
    newest_opset: ClassVar[int] = 20
    keeps_timing_cache: ClassVar[bool] = True

    def __init__(self, trt: Any, log: Any) -> None:
        self.trt = trt
        self.log = log
        self.version: str = trt.__version__

    @abstractmethod
    def targets(self, wanted: str | None) -> tuple[Target, ...]:
        """What to build one engine for each: those of `wanted` ("8.6,8.9"), or a default.

        Raises:
            UserError: this flavor does not build for them, or `wanted` is no such list.
            GpuError: a GPU is needed, and there is none.
        """

    @abstractmethod
    def gpu_name(self) -> str | None:
        """The GPU model for which an engine is built.

        None if it runs on every GPU of its compute capabilities.
        """

    def unknown_gpu(self) -> str | None:
        """A sentence if there is a GPU here for which this package builds nothing; else None."""
        return None

    def default_workspace(self) -> int | None:
        """Bytes that the builder may use for a layer; None leaves it to the builder.

        Raises:
            GpuError: a GPU is needed, and its driver does not answer.
        """
        return min(_MOST_WORKSPACE, free_gpu_memory() // 2)

    def network_flags(self) -> int:
        """The flags of `create_network`, read by name because versions number them differently."""
        # In 11 the member is deprecated, because all networks are strongly typed.
        typed = getattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return 0 if typed is None else 1 << int(typed)

    def configure(self, config: Any, *, precision: Precision, target: Target) -> None:
        """Sets in a builder's configuration what only this package has or needs.

        Raises:
            BackendError: the package refused a capability.
        """
        if precision == "fp32":
            config.clear_flag(self.trt.BuilderFlag.TF32)  # TF32 has a mantissa of only 10 bits
        self._set_target(config, target)

    def read_back(self, network: Any, plan: bytes) -> ReadBack:
        """The precision in which the finished engine `plan` of `network` computes.

        Raises:
            BackendError: TensorRT does not tell it.
        """
        return ReadBack(precision_of_network(self.trt, network), None)

    @abstractmethod
    def _set_target(self, config: Any, target: Target) -> None:
        """Sets for which GPUs the engine is built."""


class TensorRt(EngineFlavor):
    """`tensorrt` 10 and 11: builds on the GPU that will run the engine."""

    name = "tensorrt"

    def targets(self, wanted: str | None) -> tuple[Target, ...]:
        gpu = find_gpu()
        if wanted is not None and parse_capabilities(wanted) != (gpu.compute_capability,):
            raise UserError(
                f"tensorrt builds for the GPU it runs on ({gpu.name}, compute capability "
                f"{gpu.compute_capability}), not for {wanted}; build on that GPU"
            )
        return ((gpu.compute_capability,),)

    def gpu_name(self) -> str | None:
        return find_gpu().name

    def read_back(self, network: Any, plan: bytes) -> ReadBack:
        told, loaded = self._told_by_engine(plan)
        typed = precision_of_network(self.trt, network)
        # The inspector does not look into fused regions. It may miss a lower precision there, and
        # the types of the network show it.
        return ReadBack(typed if told is None else lower_of(told, typed), loaded)

    def _told_by_engine(self, plan: bytes) -> tuple[Precision | None, LoadedEngine | None]:
        """The precision that the inspector tells, if any, and the engine, unless it is refused."""
        loaded = load_engine(self.trt, self.log, plan)
        return (precision_of_engine(self.trt, loaded.engine) if loaded else None), loaded

    def _set_target(self, config: Any, target: Target) -> None:
        # Convolutions need neither cuBLAS nor cuDNN, and without them less memory is used.
        sources = config.get_tactic_sources()
        for name in ("CUBLAS", "CUBLAS_LT", "CUDNN"):
            if hasattr(self.trt.TacticSource, name):
                sources &= ~(1 << int(getattr(self.trt.TacticSource, name)))
        config.set_tactic_sources(sources)


class WeaklyTypedTensorRt(TensorRt):
    """`tensorrt` 8: reads opset 17, and uses lower precisions if flags allow them."""

    # In opset 18 the axes of ReduceMean became an input. The parser (onnx-tensorrt 8.6) does not
    # know that and takes the mean over all axes. Its source suggests that it would read the rest.
    newest_opset = 17

    def network_flags(self) -> int:
        return 1 << int(self.trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)

    def configure(self, config: Any, *, precision: Precision, target: Target) -> None:
        super().configure(config, precision=precision, target=target)
        # The runtime has one execution context for each CUDA graph, and all of them use the one
        # profile. From 10 on this is always allowed.
        config.set_preview_feature(self.trt.PreviewFeature.PROFILE_SHARING_0806, True)
        if precision in ("fp16", "int8"):
            config.set_flag(self.trt.BuilderFlag.FP16)
        if precision == "int8":
            config.set_flag(self.trt.BuilderFlag.INT8)

    def read_back(self, network: Any, plan: bytes) -> ReadBack:
        # The types of the network say nothing here: they are those of the ONNX file, and the flags
        # decide in which precision the engine computes.
        told, loaded = self._told_by_engine(plan)
        if told is None:
            raise BackendError(
                f"tensorrt {self.version} does not tell the precision it has built: "
                f"{last_errors(self.log)}"
            )
        return ReadBack(told, loaded)


class TensorRtRtx(EngineFlavor):
    """`tensorrt-rtx`: for named compute capabilities, with or without a GPU."""

    name = "tensorrt-rtx"
    keeps_timing_cache = False  # kernels are chosen when the engine is loaded, not when it is built

    def targets(self, wanted: str | None) -> tuple[Target, ...]:
        found: tuple[Target, ...] = (RTX_CAPABILITIES,)  # one engine for all of them
        if wanted is not None:
            found = tuple((capability,) for capability in parse_capabilities(wanted))
        elif missing_gpu() is None and self.unknown_gpu() is None:
            found = ((find_gpu().compute_capability,),)
        for capability in (each for target in found for each in target):
            if self._member(capability) is None:
                members = dir(self.trt.ComputeCapability)
                known = [f"{m[2:-1]}.{m[-1]}" for m in members if re.fullmatch(r"SM\d+", m)]
                raise UserError(
                    f"compute capability {capability} is unknown to tensorrt-rtx {self.version}; "
                    f"it builds for {', '.join(sorted(known, key=float))} (desktop RTX GPUs). "
                    "Jetson and data-centre GPUs need `--flavor tensorrt`"
                )
        return found

    def gpu_name(self) -> str | None:
        return None  # the build tries nothing out on a GPU, also if there is one

    def unknown_gpu(self) -> str | None:
        if missing_gpu() is not None or self._member(find_gpu().compute_capability) is not None:
            return None
        return (
            f"tensorrt-rtx {self.version} builds nothing for this GPU ({find_gpu().name}, compute "
            f"capability {find_gpu().compute_capability}), so the engine is for other machines; "
            f"for this one: {how_to_install('tensorrt')}, then `--flavor tensorrt`"
        )

    def default_workspace(self) -> int | None:
        return None  # the build compiles, mostly for GPUs of other machines, and tries nothing out

    def _set_target(self, config: Any, target: Target) -> None:
        config.num_compute_capabilities = len(target)
        for place, capability in enumerate(target):
            if config.set_compute_capability(self._member(capability), place) is False:
                raise BackendError(f"tensorrt-rtx {self.version} refused capability {capability}")
        # An engine that allocates memory while it runs cannot be captured in a CUDA graph.
        config.set_flag(self.trt.BuilderFlag.REQUIRE_USER_ALLOCATION)

    def _member(self, capability: str) -> Any:
        """The package's own name of a compute capability; None if it does not know that one."""
        return getattr(self.trt.ComputeCapability, f"SM{capability.replace('.', '')}", None)


def load_flavor(name: Flavor | None) -> EngineFlavor:
    """Imports the package `name`; None means the one that suits this machine best.

    That is `tensorrt` if it is installed and there is a GPU, else `tensorrt-rtx`.

    Raises:
        BackendError: it is not installed (the message has the install command), cannot be
            imported, or needs a GPU that is not there.
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
    """The flavor of a `tensorrt` module, by the major version of the module."""
    major = int(trt.__version__.split(".")[0])
    kind = TensorRt if major >= _FIRST_STRONGLY_TYPED else WeaklyTypedTensorRt
    return kind(trt, log)


def parse_capabilities(text: str) -> tuple[str, ...]:
    """The capabilities of a list such as "8.6,8.9", each once.

    Raises:
        UserError: `text` is no such list.
    """
    found = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    for word in found:
        if not _CAPABILITY.fullmatch(word):
            raise UserError(
                f"compute capability {word!r} is not of the form 8.6; "
                "expected a list such as 8.6,8.9,12.0"
            )
    return found
