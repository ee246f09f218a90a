"""The two int8 graphs, with the calibration that loses least on other images than it observed.

Where a graph loses too much, its most sensitive layers are left in a higher precision.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.bundles.export_options import HALF_SCALES_OPSET, METHODS, Calibration, Method
from export.graphs.activation_ranges import (
    CALIBRATION_IMAGES,
    Observation,
    Range,
    observe,
    ranges,
)
from export.graphs.layer_errors import layer_errors
from export.graphs.learned_ranges import ranges_of_graph
from export.graphs.network_layers import Layer, macs_share, network_layers
from export.graphs.onnx_operators import operators_of
from export.graphs.qdq_placement import to_int8_cpu, to_int8_tensorrt
from export.graphs.to_fp16 import to_fp16
from training.quantization.qdq_rules import GRIDS, Kind, has_int8_kernel

_VALIDATION_IMAGES = 512
_SEED = 0
# What may be left in a higher precision. With more, the file would hardly be an int8 file.
_MOST_LAYERS = 8
_MOST_MACS = 0.25
_SENSITIVITY_IMAGES = 64
# The share of calibration images on which a repaired graph may answer otherwise than float32. It
# is half of what the gate allows, because a student is surer of images that it was trained on.
_DISAGREEMENT = 0.005
_LESS = 0.5  # and its error is at most this share of the error with all layers in int8

LEARNED: Literal["learned"] = "learned"
Ranging = Method | Literal["learned"]  # how ranges are found

# Gives the float32 probabilities (N, K) of uint8 images (N, S, S, 3) by a graph.
Evaluate = Callable[[ir.Model, NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True)
class CalibrationData:
    """Training images, or the user's own validation images, as the network sees them.

    Attributes:
        images: uint8 (N, S, S, 3), training images on which the ranges are observed.
        validation_images: uint8 (M, S, S, 3), other images, by which `auto` chooses a method.
        validation_labels: int64 (M,), their classes.
        own_images: whether `validation_images` are of the user's own validation split.
    """

    images: NDArray[np.uint8]
    validation_images: NDArray[np.uint8]
    validation_labels: NDArray[np.int64]
    own_images: bool = False


@dataclass(frozen=True)
class Quantized:
    """An int8 graph, and what the card says of it.

    Attributes:
        model: the graph as it is written.
        calibration: how its ranges were found, in words.
        left_out: names of the layers that stay in a higher precision.
        left_out_macs: their share of the multiply-adds.
        learned: whether the ranges were learned in training.
    """

    model: ir.Model
    calibration: str
    left_out: tuple[str, ...] = ()
    left_out_macs: float = 0.0
    learned: bool = False


@dataclass(frozen=True)
class Learned:
    """Ranges that were learned in training.

    Attributes:
        ranges: of each rounded activation, under the names of `training.quantization.operators`.
        epochs: of the training.
        chosen: the epoch that was kept; 0 is the start, whose ranges were observed.
    """

    ranges: Mapping[str, Range]
    epochs: int
    chosen: int

    @property
    def words(self) -> str:
        """How they were found, for the card."""
        if self.chosen == 0:
            return f"observed, and {self.epochs} epochs of self-distillation were no nearer"
        of = "" if self.chosen == self.epochs else f"{self.chosen} of "
        return f"learned in {of}{self.epochs} epochs of self-distillation"


def draw_rows(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draws rows of `count` training images: some to observe, and others to choose a method by.

    Both are int64, ascending, at most 512 long, and have no row in common.
    """
    rows = np.random.default_rng(_SEED).permutation(count)
    observed = min(CALIBRATION_IMAGES, max(1, count // 2))
    return np.sort(rows[:observed]), np.sort(rows[observed : observed + _VALIDATION_IMAGES])


class Int8Exporter:
    """Makes both kinds from one float32 graph and one observation of its activations."""

    def __init__(
        self,
        model: ir.Model,
        data: CalibrationData,
        evaluate: Evaluate,
        learned: Learned | None = None,
    ) -> None:
        """Nothing is computed yet; `evaluate` runs a candidate of `auto`.

        With `learned` ranges `model` is the graph of the student that learned them, they are those
        of every file that is asked for, and no method of calibration is tried.
        """
        self._learned = learned
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
        if self._learned is not None:
            model = _finished(kind, self._with(kind, LEARNED))
            return Quantized(model, self._learned.words, learned=True)
        words = f"of {len(self._data.images)} training images"
        if calibration != "auto":
            model = _finished(kind, self._with(kind, calibration))
            return Quantized(model, f"{calibration} {words}")
        candidates = {method: self._with(kind, method) for method in METHODS}
        scores = {method: self._score(model) for method, model in candidates.items()}
        best = max(scores, key=lambda method: scores[method])
        others = "validation images" if self._data.own_images else "others"
        words += f", chosen by top-1 on {len(self._data.validation_images)} {others}"
        return Quantized(_finished(kind, candidates[best]), f"{best} {words}")

    def repair(self, kind: Kind, calibration: Calibration) -> Quantized | None:
        """The graph of that kind with its most sensitive layers in a higher precision.

        The layers are ordered by how much int8 changes the output of each. They are left out one
        by one, until the graph answers training images like float32 does. The test images are not
        asked. `auto` tries every method again, because the one that loses least without any layer
        left out may need the most layers, and keeps the graph with the fewest.

        Returns:
            The new graph; None if up to 8 layers with up to 25 % of the multiply-adds do not bring
            it near to float32.
        """
        layers = network_layers(self._model)
        best: tuple[int, float, Ranging, list[Layer]] | None = None
        for method in self._methods(calibration):
            most = best[0] if best else _MOST_LAYERS
            found = self._few_layers(kind, method, layers, most=most)
            if found is not None and (best is None or (len(found[1]), found[0]) < best[:2]):
                best = (len(found[1]), found[0], method, found[1])
        if best is None:
            return None
        _, _, method, left_out = best
        return Quantized(
            _finished(kind, self._with(kind, method, left_out)),
            (
                self._learned.words
                if self._learned is not None
                else f"{method} of {len(self._data.images)} training images"
            ),
            tuple(layer.name for layer in left_out),
            macs_share(left_out, layers),
            learned=self._learned is not None,
        )

    def _methods(self, calibration: Calibration) -> Sequence[Ranging]:
        if self._learned is not None:
            return (LEARNED,)
        return METHODS if calibration == "auto" else (calibration,)

    def _few_layers(
        self, kind: Kind, method: Ranging, layers: Sequence[Layer], *, most: int
    ) -> tuple[float, list[Layer]] | None:
        """The error, and up to `most` layers to leave out; None if they do not suffice."""
        _, plain = self._compare(self._with(kind, method))
        left_out: list[Layer] = []
        for layer in self._by_sensitivity(kind, method, layers):
            if macs_share([*left_out, layer], layers) > _MOST_MACS:
                continue
            left_out.append(layer)
            disagreement, error = self._compare(self._with(kind, method, left_out))
            if disagreement <= self._allowed and error <= _LESS * plain:
                return error, left_out
            if len(left_out) == most:
                return None
        return None

    @property
    def _allowed(self) -> float:
        return max(_DISAGREEMENT, 1 / len(self._data.validation_images))

    def _by_sensitivity(self, kind: Kind, method: Ranging, layers: Sequence[Layer]) -> list[Layer]:
        """The layers that int8 changes, the one that it changes most first."""
        images = self._data.validation_images[:_SENSITIVITY_IMAGES]
        errors = layer_errors(self._model, layers, self._ranges(kind, method), images, GRIDS[kind])
        if kind == "int8":
            network = operators_of(self._model).nodes
            int8 = {node.name for operator, node in network.items() if has_int8_kernel(operator)}
            layers = [layer for layer in layers if layer.nodes[0] in int8]
        changed = [layer for layer in layers if errors.get(layer.name)]
        return sorted(changed, key=lambda layer: -errors[layer.name])

    def _compare(self, model: ir.Model) -> tuple[float, float]:
        """The share of other answers than float32's, and the mean difference of a probability."""
        found, exact = self._evaluate(model, self._data.validation_images), self._exact()
        other = float(np.mean(found.argmax(axis=1) != exact.argmax(axis=1)))
        return other, float(np.abs(found - exact).mean())

    def _exact(self) -> NDArray[np.float32]:
        """What the float32 graph answers to the validation images."""
        if self._reference is None:
            self._reference = self._evaluate(self._model, self._data.validation_images)
        return self._reference

    def _with(self, kind: Kind, method: Ranging, left_out: Sequence[Layer] = ()) -> ir.Model:
        found = self._ranges(kind, method)
        names = {name for layer in left_out for name in layer.nodes}
        if kind == "int8-cpu":
            return to_int8_cpu(self._model, found, left_out=names)
        return to_int8_tensorrt(self._model, found, left_out=names)

    def _ranges(self, kind: Kind, method: Ranging) -> dict[str, Range]:
        if method == LEARNED:
            assert self._learned is not None
            return ranges_of_graph(self._model, kind, self._learned.ranges)
        if self._observations is None:
            self._observations = observe(self._model, self._data.images)
        return ranges(self._observations, method)

    def _score(self, model: ir.Model) -> tuple[float, float]:
        """Top-1; of two equal ones the smaller mean difference from float32 is better.

        The graph is measured before its cast to float16, because it then runs four times faster on
        a CPU. The cast changes a probability by a third of what int8 changes.
        """
        images, labels = self._data.validation_images, self._data.validation_labels
        exact, probabilities = self._exact(), self._evaluate(model, images)
        top1 = float(np.mean(probabilities.argmax(axis=1) == labels))
        return top1, -float(np.abs(probabilities - exact).mean())


def _finished(kind: Kind, model: ir.Model) -> ir.Model:
    """The graph as it is written: for a GPU, layers without int8 are cast to float16.

    Below opset 19 they stay in float32, because Q/DQ nodes may not have float16 scales there.
    """
    on_gpu = kind == "int8" and model.opset_imports[""] >= HALF_SCALES_OPSET
    return to_fp16(model) if on_gpu else model
