"""A network as the rules of int8 see it: its operators, under names that both of its forms share.

A student is a module of torch while it learns and an ONNX graph when it is deployed. A tensor is
named after the module that made it and what was done to it since, for example
"features.3.conv.0.0.clip", so that both forms name the same tensors alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass

INPUT = "normalised"  # the name of the network's input
WEIGHTED = ("Conv", "Gemm")
ACTIVATIONS = ("Clip", "Relu")


@dataclass(frozen=True)
class Operator:
    """One operator of a network.

    Attributes:
        name: of its first output; the name of its module in the student, if it has weights.
        op_type: ONNX's word, such as "Conv".
        inputs: the names of the float tensors that it reads, without weights.
        outputs: the names of those that it computes.
        weights: the shape of its weights, (O, I / groups, H, W) or (O, I); empty without weights.
        groups: of a convolution.
    """

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: tuple[int, ...] = ()
    groups: int = 1


class OperatorList:
    """The operators of a network in the order in which they run; names each one that is added."""

    def __init__(self) -> None:
        self.operators: list[Operator] = []
        self._taken = {INPUT}

    def add(
        self,
        op_type: str,
        inputs: Sequence[str],
        *,
        outputs: int = 1,
        module: str = "",
        weights: Sequence[int] = (),
        groups: int = 1,
    ) -> Operator:
        """Adds an operator, and gives it with the names of its outputs."""
        base = self._unused(module or f"{inputs[0]}.{op_type.lower()}")
        names = (base,) if outputs == 1 else tuple(f"{base}.{k}" for k in range(outputs))
        self._taken |= {base, *names}
        operator = Operator(base, op_type, tuple(inputs), names, tuple(weights), groups)
        self.operators.append(operator)
        return operator

    def _unused(self, name: str) -> str:
        """The name, or with a number if it is taken: both forms of a network count alike."""
        number, found = 1, name
        while found in self._taken:
            number += 1
            found = f"{name}-{number}"
        return found


def readers(operators: Sequence[Operator]) -> dict[str, list[Operator]]:
    """The operators that read each tensor, by its name."""
    found: dict[str, list[Operator]] = {}
    for operator in operators:
        for name in operator.inputs:
            found.setdefault(name, []).append(operator)
    return found


def producers(operators: Sequence[Operator]) -> dict[str, Operator]:
    """The operator that computes each tensor, by its name."""
    return {name: operator for operator in operators for name in operator.outputs}
