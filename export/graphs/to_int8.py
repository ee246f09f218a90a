"""The two int8 graphs, with the calibration that loses least on training images kept for it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.bundles.export_options import HALF_SCALES_OPSET, METHODS, Calibration, Method
from export.graphs.activation_ranges import CALIBRATION_IMAGES, Observation, observe, ranges
from export.graphs.qdq_placement import to_int8_cpu, to_int8_tensorrt
from export.graphs.to_fp16 import to_fp16

Kind = Literal["int8", "int8-cpu"]
_VALIDATION_IMAGES = 512
_SEED = 0

# Gives the float32 probabilities (N, K) of uint8 images (N, S, S, 3) by a graph.
Evaluate = Callable[[ir.Model, NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True)
class CalibrationData:
    """Training images as the network sees them.

    Attributes:
        images: uint8 (N, S, S, 3), on which the ranges are observed.
        validation_images: uint8 (M, S, S, 3), other images, by which `auto` chooses a method.
        validation_labels: int64 (M,), their classes.
    """

    images: NDArray[np.uint8]
    validation_images: NDArray[np.uint8]
    validation_labels: NDArray[np.int64]


@dataclass(frozen=True)
class Quantized:
    """An int8 graph, and in words how its ranges were found (for the card)."""

    model: ir.Model
    calibration: str


def draw_rows(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draws rows of `count` training images: some to observe, and others to choose a method by.

    Both are int64, ascending, at most 512 long, and have no row in common.
    """
    rows = np.random.default_rng(_SEED).permutation(count)
    observed = min(CALIBRATION_IMAGES, max(1, count // 2))
    return np.sort(rows[:observed]), np.sort(rows[observed : observed + _VALIDATION_IMAGES])


class Int8Exporter:
    """Makes both kinds from one float32 graph and one observation of its activations."""

    def __init__(self, model: ir.Model, data: CalibrationData, evaluate: Evaluate) -> None:
        """Nothing is computed yet; `evaluate` runs a candidate of `auto`."""
        self._model = model
        self._data = data
        self._evaluate = evaluate
        self._observations: Mapping[str, Observation] | None = None
        self._reference: NDArray[np.float32] | None = None

    def quantize(self, kind: Kind, calibration: Calibration) -> Quantized:
        """The graph of that kind; `auto` tries every method and keeps the most accurate one.

        Raises:
            VerificationError: a weight is larger than float16 can represent (`int8` only).
        """
        words = f"of {len(self._data.images)} training images"
        if calibration != "auto":
            return Quantized(
                _finished(kind, self._with(kind, calibration)), f"{calibration} {words}"
            )
        candidates = {method: self._with(kind, method) for method in METHODS}
        scores = {method: self._score(model) for method, model in candidates.items()}
        best = max(scores, key=lambda method: scores[method])
        words += f", chosen by top-1 on {len(self._data.validation_images)} others"
        return Quantized(_finished(kind, candidates[best]), f"{best} {words}")

    def _with(self, kind: Kind, method: Method) -> ir.Model:
        if self._observations is None:
            self._observations = observe(self._model, self._data.images)
        found = ranges(self._observations, method)
        if kind == "int8-cpu":
            return to_int8_cpu(self._model, found)
        return to_int8_tensorrt(self._model, found)

    def _score(self, model: ir.Model) -> tuple[float, float]:
        """Top-1; of two equal ones the smaller mean difference from float32 is better.

        The graph is measured before its cast to float16, because it then runs four times faster on
        a CPU. The cast changes a probability by a third of what int8 changes.
        """
        images, labels = self._data.validation_images, self._data.validation_labels
        if self._reference is None:
            self._reference = self._evaluate(self._model, images)
        probabilities = self._evaluate(model, images)
        top1 = float(np.mean(probabilities.argmax(axis=1) == labels))
        return top1, -float(np.abs(probabilities - self._reference).mean())


def _finished(kind: Kind, model: ir.Model) -> ir.Model:
    """The graph as it is written: for a GPU, layers without int8 are cast to float16.

    Below opset 19 they stay in float32, because Q/DQ nodes may not have float16 scales there.
    """
    on_gpu = kind == "int8" and model.opset_imports[""] >= HALF_SCALES_OPSET
    return to_fp16(model) if on_gpu else model
