"""Ranges that were learned in training, for the tensors of an exported graph."""

from collections.abc import Mapping

import onnx_ir as ir

from export.graphs.activation_ranges import Range
from export.graphs.onnx_operators import operators_of
from runtime.base.errors import UserError
from training.quantization.operators import ACTIVATIONS
from training.quantization.qdq_rules import Kind, placement


def ranges_of_graph(model: ir.Model, kind: Kind, learned: Mapping[str, Range]) -> dict[str, Range]:
    """The range of every tensor that is rounded, under the graph's name of the tensor.

    Args:
        model: the float32 graph of the student that learned.
        kind: of the file.
        learned: the ranges, under the names of `training.quantization.operators`.

    Raises:
        UserError: a tensor that the rules round has no learned range.
    """
    network = operators_of(model)
    placed = placement(kind, network.operators)
    if missing := [name for name in placed.tensors if name not in learned]:
        raise UserError(
            f"the learned ranges of {kind} have none for {missing[0]}: they are of another version "
            "of SKD Edge; train them again with `python training/qat.py`"
        )
    found = dict(learned)
    for operator in network.operators:
        # onnxruntime asks for the range before an activation, too, and then takes that behind it.
        if operator.op_type in ACTIVATIONS and operator.name in found:
            found.setdefault(operator.inputs[0], found[operator.name])
    return {own: found[name] for own, name in network.names.items() if name in found}
