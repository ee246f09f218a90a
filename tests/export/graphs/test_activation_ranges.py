"""Ranges by the three methods, for histograms whose answer is known."""

import numpy as np
import pytest

from export.bundles.export_options import METHODS, Method
from export.graphs.activation_ranges import Observation, _histogram, observe
from export.graphs.to_onnx import ExportedGraph

BINS = 2048


def observation(values: np.ndarray) -> Observation:
    magnitude = np.abs(values).max()
    counts = np.bincount(
        np.minimum(np.abs(values) * BINS / magnitude, BINS - 1).astype(int), minlength=BINS
    )
    return Observation(float(values.min()), float(values.max()), counts)


@pytest.mark.parametrize("method", METHODS)
def test_a_range_holds_zero_and_nothing_that_was_not_seen(method: Method) -> None:
    values = np.random.default_rng(0).uniform(1.0, 3.0, 100_000)
    low, high = observation(values).range(method)
    assert low == 0
    assert 2.5 < high <= 3.0
    assert observation(-values).range(method) == (-high, 0)


def test_minmax_keeps_an_outlier_that_the_others_clip() -> None:
    values = np.random.default_rng(0).normal(size=100_000)
    values[0] = 50.0
    found = {method: observation(values).range(method)[1] for method in METHODS}
    assert found["minmax"] == 50.0
    assert 3.0 < found["percentile"] < 5.0  # one in 10,000 of a normal distribution: 3.9
    assert 2.0 < found["entropy"] < 10.0


@pytest.mark.parametrize("shape", [(256, 32, 32), (96, 112, 112), (512, 4, 4), (3, 30, 30)])
def test_large_tensors_are_sampled_in_all_of_their_columns(shape: tuple[int, int, int]) -> None:
    """The border of a map differs from its middle, so a sample has values of all columns."""
    for column in range(shape[2]):
        values = np.full((1, *shape), 0.01, np.float32)
        values[..., column] = 1.0
        counts = _histogram(values, 1.0)
        assert counts[-1] == pytest.approx(counts.sum() / shape[2], rel=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_zeros_has_an_empty_range(method: Method) -> None:
    assert Observation(0.0, 0.0, np.zeros(BINS, np.int64)).range(method) == (0.0, 0.0)


def test_observation_is_of_every_float_tensor_of_the_network(
    small_graph: ExportedGraph, images: np.ndarray
) -> None:
    found = observe(small_graph.model, images)
    assert "normalised" in found
    assert "logits" in found
    pixels = (images / 255 - np.array([0.3, 0.5, 0.7])) / np.array([0.2, 0.25, 0.35])
    assert found["normalised"].low == pytest.approx(pixels.min(), rel=1e-5)
    assert found["normalised"].high == pytest.approx(pixels.max(), rel=1e-5)
    clipped = [o for o in found.values() if o.low == 0]
    assert clipped, "there are activations"
    assert all(o.high <= 6 for o in clipped)
