"""How much int8 changes each layer alone: compared with numpy for layers that only round."""

import numpy as np
import pytest

from export.graphs.activation_ranges import graph_session, observe, ranges, run_in_batches
from export.graphs.graph_edits import network_nodes
from export.graphs.layer_errors import layer_errors
from export.graphs.network_layers import network_layers
from export.graphs.to_onnx import ExportedGraph
from training.quantization.qdq_rules import GRIDS


def test_of_the_cpu_kind_an_addition_loses_its_own_rounding(
    small_graph: ExportedGraph, images: np.ndarray
) -> None:
    """Its output is on a grid of 255 steps with a zero point, as QuantizeLinear rounds it."""
    model = small_graph.model
    found = ranges(observe(model, images), "minmax")
    layers = network_layers(model)
    errors = layer_errors(model, layers, found, images, GRIDS["int8-cpu"])
    addition = next(node for node in network_nodes(model.graph) if node.op_type == "Add")
    layer = next(layer for layer in layers if addition.name in layer.nodes)
    last = next(n for n in network_nodes(model.graph) if n.name == layer.nodes[-1]).outputs[0]
    shown = model.clone()
    shown.graph.outputs[:] = [
        value for node in shown.graph for value in node.outputs if value.name == last.name
    ]
    values = np.concatenate(
        [batch[last.name] for batch in run_in_batches(graph_session(shown), images)]
    )
    low, high = found[last.name]
    step = (high - low) / 255
    zero = round(-low / step)
    rounded = (np.clip(np.round(values / step) + zero, 0, 255) - zero) * step
    squares = [np.square(each).sum(axis=(0, 2, 3)) for each in (rounded - values, values)]
    assert errors[layer.name] == pytest.approx(float(np.mean(squares[0] / squares[1])), rel=0.02)
    assert errors[layer.name] > 0


def test_for_tensorrt_only_layers_with_weights_have_an_error(
    small_graph: ExportedGraph, images: np.ndarray
) -> None:
    model = small_graph.model
    layers = network_layers(model)
    found = ranges(observe(model, images), "minmax")
    of = {kind: layer_errors(model, layers, found, images, GRIDS[kind]) for kind in GRIDS}
    assert of["int8"].keys() < of["int8-cpu"].keys()
    assert all(layer.macs for layer in layers if layer.name in of["int8"])


def test_more_steps_lose_less(small_graph: ExportedGraph, images: np.ndarray) -> None:
    """A range ten times as wide leaves a tenth of the steps to the values."""
    model = small_graph.model
    layers = [layer for layer in network_layers(model) if layer.macs]
    found = ranges(observe(model, images), "minmax")
    wide = {name: (10 * low, 10 * high) for name, (low, high) in found.items()}
    fine, coarse = (
        layer_errors(model, layers, each, images, GRIDS["int8-cpu"]) for each in (found, wide)
    )
    assert all(coarse[name] > 2 * fine[name] for name in fine)
