"""How much int8 changes the output of each layer alone, found in one pass over training images.

A side branch for each layer computes it from the float32 input with int8 numbers. So a layer is
not blamed for what the layers before it have done, and one run of one graph measures all of them.
To run the network once for each layer, with this layer alone in int8, took 13 to 26 times as long.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graphs.activation_ranges import Range, graph_session, run_in_batches
from export.graphs.graph_edits import add_constant, constant_of, network_nodes
from export.graphs.network_layers import Layer
from training.quantization.qdq_rules import Grid

_TINY = 1e-12
_MIN_RANK = 2  # a batch of channels


def layer_errors(
    model: ir.Model,
    layers: Sequence[Layer],
    ranges: Mapping[str, Range],
    images: NDArray[np.uint8],
    grid: Grid,
) -> dict[str, float]:
    """The error of each layer that has one, under its name.

    It is the mean square error of an output channel as a share of the channel's mean square,
    averaged over the channels. Channels count alike, because the next layer may give a large weight
    to a channel of small numbers.

    Args:
        model: the float32 graph.
        layers: of the network.
        ranges: the range of every activation, under the tensor's name.
        images: uint8 (N, S, S, 3).
        grid: the kind's numbers.
    """
    copy = model.clone()
    graph = copy.graph
    nodes = {node.name: node for node in network_nodes(graph)}
    branches = _Branches(graph, ranges, grid)
    outputs: dict[str, tuple[ir.Value, ir.Value]] = {}
    for layer in layers:
        pair = branches.add([nodes[name] for name in layer.nodes])
        if pair is not None:
            outputs[layer.name] = pair
    graph.outputs[:] = [value for pair in outputs.values() for value in pair]
    graph.sort()
    sums: dict[str, NDArray[np.float64]] = {}
    for values in run_in_batches(graph_session(copy), images):
        for name, value in values.items():
            sums[name] = sums.get(name, 0) + value.astype(np.float64)
    return {
        layer: float(np.mean(sums[error.name or ""] / (sums[energy.name or ""] + _TINY)))
        for layer, (error, energy) in outputs.items()
    }


class _Branches:
    """Adds the side branches to a graph."""

    def __init__(self, graph: ir.Graph, ranges: Mapping[str, Range], grid: Grid) -> None:
        self._graph = graph
        self._ranges = ranges
        self._grid = grid
        self._sum_axes: dict[int, ir.Value] = {}

    def add(self, nodes: Sequence[ir.Node]) -> tuple[ir.Value, ir.Value] | None:
        """The square error and the square of a layer's output, summed to one number a channel.

        None if the layer has nothing in int8.
        """
        exact = nodes[-1].outputs[0]
        rounded = self._computed(nodes)
        if self._grid.quantizes_outputs and (exact.name or "") in self._ranges:
            rounded = self._rounded(rounded or exact, exact.name or "")
        if rounded is None or exact.shape is None or len(exact.shape) < _MIN_RANK:
            return None
        difference = self._node("Sub", [rounded, exact])
        rank = len(exact.shape)
        return self._summed(difference, rank), self._summed(exact, rank)

    def _computed(self, nodes: Sequence[ir.Node]) -> ir.Value | None:
        """The layer's output from its int8 input and weights; None if it has no weights."""
        first = nodes[0]
        if first.op_type not in ("Conv", "Gemm") or first.inputs[0] is None:
            return None
        source, weights = first.inputs[0], constant_of(first.inputs[1])
        if weights is None or source.name is None or source.name not in self._ranges:
            return None
        inputs = list(first.inputs)
        inputs[0] = self._rounded(source, source.name)
        inputs[1] = add_constant(
            self._graph, f"{first.name}.rounded_weights", self._rounded_weights(weights)
        )
        value = self._copied(first, inputs)
        for node in nodes[1:]:
            value = self._copied(node, [value, *node.inputs[1:]])
        return value

    def _rounded_weights(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        axes = tuple(range(1, weights.ndim))
        step = np.abs(weights).max(axis=axes, keepdims=True) / self._grid.weight_levels
        step = np.maximum(step, _TINY)
        return np.asarray(np.round(weights / step) * step, np.float32)

    def _rounded(self, value: ir.Value, name: str) -> ir.Value:
        """The value on the activation's grid: divided by the step, rounded, cut off, multiplied."""
        low, high = self._ranges[name]
        levels = self._grid.activation_levels
        if self._grid.signed:
            step, bottom, top = max(abs(low), abs(high)) / levels, -levels, levels
        else:
            step = (high - low) / levels
            bottom = round(low / step) if step else 0
            top = bottom + levels
        size = self._constant(max(step, _TINY))
        scaled = self._node("Round", [self._node("Div", [value, size])])
        limits = [self._constant(float(bottom)), self._constant(float(top))]
        return self._node("Mul", [self._node("Clip", [scaled, *limits]), size])

    def _summed(self, value: ir.Value, rank: int) -> ir.Value:
        """The sum of squares over images and pixels, one number a channel."""
        if rank not in self._sum_axes:
            axes = np.array([0, *range(2, rank)], np.int64)
            self._sum_axes[rank] = add_constant(self._graph, f"axes of {rank}", axes)
        squared = self._node("Mul", [value, value])
        return self._node("ReduceSum", [squared, self._sum_axes[rank]], {"keepdims": 0})

    def _constant(self, number: float) -> ir.Value:
        name = f"constant {len(self._graph.initializers)}"
        return add_constant(self._graph, name, np.array(number, np.float32))

    def _copied(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> ir.Value:
        copy = ir.node(node.op_type, list(inputs), attributes=dict(node.attributes))
        return self._added(copy)

    def _node(
        self, op_type: str, inputs: Sequence[ir.Value], attributes: Mapping[str, int] | None = None
    ) -> ir.Value:
        return self._added(ir.node(op_type, list(inputs), attributes=dict(attributes or {})))

    def _added(self, node: ir.Node) -> ir.Value:
        node.name = f"branch {len(self._graph)}"
        output = node.outputs[0]
        output.name = f"{node.name} output"
        output.type = ir.TensorType(ir.DataType.FLOAT)
        self._graph.append(node)
        return output
