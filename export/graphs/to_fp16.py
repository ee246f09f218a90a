"""The network in float16; the input's cast, the normalisation and the softmax stay in float32.

The precision is written into the ONNX file and not asked for by a flag of the builder, because
TensorRT 10 and 11 build what the graph says. onnxruntime's converter is not used because it clips a
weight that float16 cannot represent, where this one refuses the student.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graphs.graph_edits import (
    add_constant,
    constant_of,
    drop_unused_constants,
    network_nodes,
)
from runtime.base.errors import VerificationError

_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
_LARGEST_HALF = float(np.finfo(np.float16).max)


def to_fp16(model: ir.Model) -> ir.Model:
    """A copy of the float32 `model` whose network computes in float16.

    Raises:
        VerificationError: a weight is larger than float16 can represent.
    """
    result = model.clone()
    graph = result.graph
    nodes = network_nodes(graph)
    halves: dict[str, ir.Value] = {}
    for node in nodes:
        _convert_constants(graph, node, halves)
        _convert_types(node)
    _cast_boundaries(graph, set(nodes))
    drop_unused_constants(graph)
    return result


def _convert_constants(graph: ir.Graph, node: ir.Node, halves: dict[str, ir.Value]) -> None:
    """Gives the node float16 copies of its float32 constants; `halves` holds those made so far."""
    for index, value in enumerate(node.inputs):
        array = constant_of(value)
        if value is None or value.name is None or array is None or array.dtype != np.float32:
            continue
        if value.name not in halves:
            halves[value.name] = add_constant(graph, f"{value.name}.half", _half(array, value.name))
        node.replace_input_with(index, halves[value.name])


def _half(array: NDArray[np.float32], name: str) -> NDArray[np.float16]:
    if (largest := float(np.abs(array).max(initial=0))) > _LARGEST_HALF:
        raise VerificationError(
            f"{name} holds {largest:.3g}, float16 ends at {_LARGEST_HALF:.0f}: this student cannot "
            "be exported in fp16, and not in int8 for TensorRT, which rests on it"
        )
    return array.astype(np.float16)


def _convert_types(node: ir.Node) -> None:
    """Declares the node's float32 outputs as float16."""
    if node.op_type == "Cast" and node.attributes["to"].as_int() == _FLOAT:
        node.attributes["to"] = ir.AttrInt64("to", _HALF)
    for output in node.outputs:
        if output.dtype == _FLOAT:
            output.type = ir.TensorType(_HALF)


def _cast_boundaries(graph: ir.Graph, network: set[ir.Node]) -> None:
    """Inserts casts between the network in float16 and the float32 nodes around it."""
    produced = {value: node for node in graph for value in node.outputs}
    for value, producer in produced.items():
        inside = producer in network
        crossing = [use for use in value.uses() if (use.node in network) != inside]
        if not crossing or value.dtype not in (_FLOAT, _HALF):
            continue
        to = _FLOAT if inside else _HALF
        suffix = "float" if inside else "half"
        cast = ir.node("Cast", [value], attributes={"to": ir.AttrInt64("to", to)})
        cast.name = f"{value.name}.{suffix}"
        cast.outputs[0].name = f"{value.name}.{suffix}"
        cast.outputs[0].type = ir.TensorType(to)
        cast.outputs[0].shape = value.shape
        graph.insert_after(producer, cast)
        for use in crossing:
            use.node.replace_input_with(use.idx, cast.outputs[0])
