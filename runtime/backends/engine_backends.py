"""The backends that run engines: `tensorrt` and `tensorrt-rtx`."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from runtime.backends.backend import Backend, Problem
from runtime.backends.engine_session import EngineSession
from runtime.backends.preflight import engine_mismatch, engine_problem, this_machine
from runtime.backends.session import Session, Threads
from runtime.base.errors import BackendError, EngineMismatchError
from runtime.model.bundle import Bundle
from runtime.model.card import Card, EngineRecord, Flavor, ModelFile

# The support matrix of TensorRT-RTX 1.7 has the column "INT8 WoQ GEMM" and no other of INT8.
# tests/export/engines/test_build_engine_rtx.py counts the kernels in built engines.
_RTX_INT8 = (
    "int8 brings nothing with tensorrt-rtx: its release has int8 for the weights of matrix "
    "products only, and its engines quantise behind each convolution in a kernel of its own; "
    "take fp16"
)


class EngineBackend(Backend):
    """One of the two TensorRT packages. It runs the bundle's engines that were built with it."""

    # int8 engines gain nothing at batch 1 and cost accuracy, so they are used when asked for.
    precisions = ("fp16", "fp32", "int8")
    opens_onnx: ClassVar[bool] = False

    def __init__(
        self, name: Flavor, *, title: str, priority: int, doubts: Mapping[str, str] | None = None
    ) -> None:
        self.name = self.flavor = name
        self.title = title
        self.priority = priority
        self.doubts = doubts or {}

    def problem(self) -> Problem | None:
        return engine_problem(self.flavor)

    def files(self, card: Card) -> Sequence[ModelFile | EngineRecord]:
        engines = [engine for engine in card.engines if engine.flavor == self.flavor]
        return sorted(engines, key=lambda engine: self.precisions.index(engine.precision))

    def mismatch(
        self, bundle: Bundle, record: ModelFile | EngineRecord
    ) -> EngineMismatchError | None:
        if not isinstance(record, EngineRecord):
            return None
        return engine_mismatch(bundle, record, this_machine(self.flavor))

    def open(
        self,
        content: bytes,
        *,
        source: str,
        record: ModelFile | EngineRecord | None,
        threads: Threads | None = None,
    ) -> Session:
        if not isinstance(record, EngineRecord):
            raise BackendError(
                f"{self.name} runs engines, and {source} is an ONNX file; name a bundle with an "
                "engine (`python export/build_trt.py` builds it)"
            )
        return EngineSession(content, source=source, flavor=self.flavor, profile=record.profile)


TENSORRT = EngineBackend("tensorrt", title="TensorRT", priority=3)
TENSORRT_RTX = EngineBackend(
    "tensorrt-rtx",
    title="TensorRT for RTX",
    priority=2,
    doubts={"int8": _RTX_INT8},
)
