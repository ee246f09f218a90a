"""Ranges of activations for int8, observed on training images.

A first pass over the images finds the extremes of each tensor, a second pass its histogram. Three
methods turn these into a threshold; values of a larger magnitude are clipped to it:

    minmax      nothing is clipped
    percentile  one value in 10,000 is clipped
    entropy     the threshold whose 8-bit histogram is nearest to the true one (KL divergence)

The methods are written here because the libraries do not fit: TensorRT 11 has no calibrators any
more, and a calibrator of onnxruntime has one method and runs all images for it. Here the three
methods share the same two passes, so that `auto` can try each of them.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.bundles.export_options import Method
from export.graphs.graph_edits import network_nodes
from runtime.backends.onnx_provider import load_onnxruntime, threads_of_operator
from runtime.model.card import INPUT_NAME

CALIBRATION_IMAGES = 512

_BINS = 2048
_LEVELS = 128  # magnitudes of a signed 8-bit value
_PERCENTILE = 0.9999
_SAMPLES = 1 << 12  # values that one tensor of one image adds to its histogram
_PIXELS_PER_BATCH = 200_000  # limits the memory that all activations of a batch take
_MAX_BATCH = 64

Range = tuple[float, float]  # the lowest and the highest value that int8 has to represent


@dataclass(frozen=True)
class Observation:
    """What was seen of one tensor.

    Attributes:
        low: its smallest value.
        high: its largest value.
        counts: int64 (2048,), a histogram of the magnitudes of its non-zero values. The bins are
            equally wide and reach from 0 to `magnitude`.
    """

    low: float
    high: float
    counts: NDArray[np.int64]

    @property
    def magnitude(self) -> float:
        """The largest magnitude that was seen."""
        return max(abs(self.low), abs(self.high))

    def range(self, method: Method) -> Range:
        """The range by one method. It always contains zero, which int8 represents exactly."""
        threshold = self.magnitude * _kept_bins(self.counts, method) / _BINS
        return max(min(self.low, 0.0), -threshold), min(max(self.high, 0.0), threshold)


def observe(model: ir.Model, images: NDArray[np.uint8]) -> dict[str, Observation]:
    """Observes every float tensor of the network on uint8 images (N, S, S, 3).

    The result has the names of the tensors as keys.
    """
    session = graph_session(_observer(model))
    extremes: dict[str, Range] = {}
    for values in run_in_batches(session, images):
        for name, value in values.items():
            low, high = extremes.get(name, (np.inf, -np.inf))
            extremes[name] = (min(low, float(value.min())), max(high, float(value.max())))
    counts = {name: np.zeros(_BINS, np.int64) for name in extremes}
    for values in run_in_batches(session, images):
        for name, value in values.items():
            counts[name] += _histogram(value, max(map(abs, extremes[name])))
    return {name: Observation(*extremes[name], counts[name]) for name in extremes}


def ranges(observations: Mapping[str, Observation], method: Method) -> dict[str, Range]:
    """The range of every observed tensor by one method, under the tensor's name."""
    return {name: observation.range(method) for name, observation in observations.items()}


def _observer(model: ir.Model) -> ir.Model:
    """A copy whose outputs are the network's float tensors and its input."""
    observed = model.clone()
    graph = observed.graph
    tensors: dict[str, ir.Value] = {}
    for node in network_nodes(graph):
        for value in (*node.inputs, *node.outputs):
            if value is None or value.name is None or value.is_initializer():
                continue
            if value.dtype == ir.DataType.FLOAT:
                tensors[value.name] = value
    graph.outputs[:] = tensors.values()
    return observed


def graph_session(model: ir.Model) -> Any:
    """An onnxruntime session of a graph whose outputs may be any of its tensors."""
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads_of_operator()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run_in_batches(
    session: Any, images: NDArray[np.uint8]
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """The values of all outputs of the session's graph under their names, batch by batch.

    A batch is small enough for the activations of a whole network to fit into memory.
    """
    names = [output.name for output in session.get_outputs()]
    batch = max(1, min(_MAX_BATCH, _PIXELS_PER_BATCH // images.shape[1] ** 2))
    for start in range(0, len(images), batch):
        feed = {INPUT_NAME: np.ascontiguousarray(images[start : start + batch])}
        yield dict(zip(names, session.run(names, feed), strict=True))


def _histogram(values: NDArray[np.float32], magnitude: float) -> NDArray[np.int64]:
    """Counts int64 (2048,) of the magnitudes of non-zero values; large tensors are sampled.

    Zeros are left out: int8 represents them exactly in every range, and after a ReLU there are so
    many of them that the other values would hardly count.
    """
    if magnitude == 0:
        return np.zeros(_BINS, np.int64)
    flat = values.reshape(len(values), -1)
    stride = max(1, flat.shape[1] // _SAMPLES)
    # A stride that shares a factor with the width would take the same few columns of every row.
    while math.gcd(stride, flat.shape[1]) > 1:
        stride += 1
    flat = flat[:, ::stride]
    magnitudes = np.abs(flat[flat != 0])
    bins = np.minimum((magnitudes * (_BINS / magnitude)).astype(np.int64), _BINS - 1)
    return np.bincount(bins, minlength=_BINS)


def _kept_bins(counts: NDArray[np.int64], method: Method) -> int:
    """How many bins, counted from zero, lie within the threshold."""
    if method == "minmax" or not counts.any():
        return _BINS
    if method == "percentile":
        share = np.cumsum(counts) / counts.sum()
        return int(np.searchsorted(share, _PERCENTILE)) + 1
    candidates = range(_LEVELS, _BINS + 1, _BINS // _LEVELS)
    return min(candidates, key=lambda kept: _divergence(counts, kept))


def _divergence(counts: NDArray[np.int64], kept: int) -> float:
    """KL divergence between the clipped histogram and the same histogram in 128 equal steps.

    As in S. Migacz, "8-bit inference with TensorRT" (GTC 2017): the clipped values are counted in
    the last bin that is kept, and the mass of a step is spread over its non-empty bins.
    """
    if not counts[:kept].any():
        return np.inf
    reference = counts[:kept].astype(np.float64)
    occupied = reference > 0
    step = np.arange(kept) * _LEVELS // kept
    mass = np.bincount(step, weights=reference, minlength=_LEVELS)
    share = np.bincount(step, weights=occupied, minlength=_LEVELS)
    quantized = np.where(occupied, (mass / np.maximum(share, 1))[step], 0.0)
    reference[-1] += counts[kept:].sum()
    # The last bin may hold clipped values only. The quantised histogram is then empty there, and a
    # tiny share keeps the logarithm finite.
    quantized = np.maximum(quantized, np.where(reference > 0, 1e-9 * counts.sum(), 0.0))
    reference, quantized = reference / reference.sum(), quantized / quantized.sum()
    inside = reference > 0
    return float(np.sum(reference[inside] * np.log(reference[inside] / quantized[inside])))
