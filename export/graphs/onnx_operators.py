"""An exported network as the rules of int8 see it (`training.quantization`)."""

from collections import Counter
from dataclasses import dataclass

import onnx_ir as ir

from export.graphs.graph_edits import NORMALISED, constant_of, network_nodes
from training.quantization.operators import INPUT, WEIGHTED, Operator, OperatorList

_PREFIX, _SUFFIX = "student.", ".weight"
# The legacy exporter's words for what the default one writes in another way.
_SAME = {"GlobalAveragePool": "ReduceMean", "Flatten": "Reshape"}


@dataclass(frozen=True)
class NetworkOperators:
    """The operators of a graph's network.

    Attributes:
        nodes: the node of each operator, in the graph's order.
        names: what the rules call each of the graph's float tensors, by the graph's own name.
    """

    nodes: dict[Operator, ir.Node]
    names: dict[str, str]

    @property
    def operators(self) -> list[Operator]:
        """In the order in which they run."""
        return list(self.nodes)


def operators_of(model: ir.Model) -> NetworkOperators:
    """The operators that compute float tensors; those that compute shapes are left out."""
    found, names = OperatorList(), {NORMALISED: INPUT}
    nodes: dict[Operator, ir.Node] = {}
    slices: Counter[str] = Counter()
    for node in network_nodes(model.graph):
        inputs = [names[v.name or ""] for v in node.inputs if v is not None and v.name in names]
        if not inputs or node.op_type == "Shape":
            continue
        if node.op_type == "Slice":  # the legacy exporter cuts one part of a Split after another
            part = f"{inputs[0]}.split.{slices[inputs[0]]}"
            slices[inputs[0]] += 1
            operator = Operator(part, "Slice", tuple(inputs), (part,))
        else:
            operator = _added(found, node, inputs)
        nodes[operator] = node
        names.update(
            (value.name or "", name)
            for value, name in zip(node.outputs, operator.outputs, strict=True)
        )
    return NetworkOperators(nodes, names)


def _added(found: OperatorList, node: ir.Node, inputs: list[str]) -> Operator:
    weights = constant_of(node.inputs[1]) if node.op_type in WEIGHTED else None
    return found.add(
        _SAME.get(node.op_type, node.op_type),
        inputs,
        outputs=len(node.outputs),
        module="" if weights is None else module_name(node),
        weights=() if weights is None else weights.shape,
        groups=node.attributes["group"].as_int() if "group" in node.attributes else 1,
    )


def module_name(node: ir.Node) -> str:
    """The module's name, from the weights' name or, of the legacy exporter, from the node's."""
    weights = node.inputs[1].name if node.inputs[1] is not None else None
    if weights and weights.startswith(_PREFIX):
        return weights.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    # "/student/features/features.8/conv/conv.2/Conv": a part repeats the one that it lies in.
    parts: list[str] = []
    for part in (node.name or "").strip("/").split("/")[1:-1]:
        if parts and part.startswith(f"{parts[-1]}."):
            parts.pop()
        parts.append(part)
    return ".".join(parts) or (node.name or "")
