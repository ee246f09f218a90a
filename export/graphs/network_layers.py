"""The layers of an exported network as int8 sees them: their names, nodes and multiply-adds."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from export.graphs.graph_edits import constant_of, network_nodes
from export.graphs.onnx_operators import module_name
from training.quantization.operators import ACTIVATIONS

_WEIGHTED = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Layer:
    """What is in int8 or in a higher precision as a whole.

    Attributes:
        name: the module's name in the student, such as "features.3.conv.1.0"; the node's name if
            it has no weights.
        nodes: the names of its nodes: a convolution and the activation that follows it, or one
            other node.
        macs: multiply-adds for one image.
    """

    name: str
    nodes: tuple[str, ...]
    macs: int


def network_layers(model: ir.Model) -> list[Layer]:
    """The layers of the network, in the graph's order."""
    nodes = network_nodes(model.graph)
    with_their_layer = {
        follower for node in nodes if (follower := _activation_after(node)) is not None
    }
    return [_layer(node) for node in nodes if node not in with_their_layer]


def macs_share(chosen: Sequence[Layer], every: Sequence[Layer]) -> float:
    """The chosen layers' share of all multiply-adds."""
    total = sum(layer.macs for layer in every)
    return sum(layer.macs for layer in chosen) / total if total else 0.0


def _layer(node: ir.Node) -> Layer:
    follower = _activation_after(node)
    nodes = (node.name or "", *([follower.name or ""] if follower is not None else []))
    weights = constant_of(node.inputs[1]) if node.op_type in _WEIGHTED else None
    if weights is None:
        return Layer(nodes[0], nodes, 0)
    return Layer(module_name(node), nodes, int(weights.size) * _positions(node))


def _positions(node: ir.Node) -> int:
    """How many pixels a convolution computes; 1 for a linear layer."""
    shape = node.outputs[0].shape
    if node.op_type != "Conv" or shape is None:
        return 1
    return prod(size for size in shape[2:] if isinstance(size, int))


def _activation_after(node: ir.Node) -> ir.Node | None:
    """The activation that alone reads the output of a node with weights, if there is one."""
    if node.op_type not in _WEIGHTED:
        return None
    readers = [use.node for use in node.outputs[0].uses()]
    if len(readers) == 1 and readers[0].op_type in ACTIVATIONS:
        return readers[0]
    return None
