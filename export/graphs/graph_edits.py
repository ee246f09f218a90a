"""The parts of an exported graph (normalisation, network, softmax), and small edits of a graph.

    images -> Cast, Transpose, Mul, Add -> "normalised" -> network -> "logits" -> Div, Softmax

Conversions to float16 and int8 change only the network between the two named values. The parts
before and after it stay in float32.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

NORMALISED = "normalised"
LOGITS = "logits"


def network_nodes(graph: ir.Graph) -> list[ir.Node]:
    """The nodes between the two named values, in the graph's order."""
    outside = nodes_before(_value(graph, NORMALISED))
    inside = nodes_before(_value(graph, LOGITS)) - outside
    return [node for node in graph if node in inside]


def nodes_before(value: ir.Value | None) -> set[ir.Node]:
    """The node that computes `value`, and all nodes that this node needs."""
    found: set[ir.Node] = set()
    waiting = [] if value is None else [value.producer()]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += node.predecessors()
    return found


def input_of(node: ir.Node, index: int = 0) -> ir.Value:
    """An input that the node must have.

    Raises:
        AssertionError: the node does not have it; the graph is not one that export wrote.
    """
    value = node.inputs[index]
    if value is None:
        raise AssertionError(f"{node.name} has no input {index}")
    return value


def constant_of(value: ir.Value | None) -> NDArray[Any] | None:
    """The array of an initializer; None for any other value."""
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    array: NDArray[Any] = value.const_value.numpy()
    return array


def add_constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """Adds an initializer of that name to the graph and returns it."""
    # The copy is needed: `array` may be a view of memory that changes or is freed later.
    tensor = ir.Tensor(np.array(array), name=name)
    value = ir.Value(
        name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def drop_unused_constants(graph: ir.Graph) -> None:
    """Removes the initializers that no node reads."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def _value(graph: ir.Graph, name: str) -> ir.Value:
    return next(value for node in graph for value in node.outputs if value.name == name)
