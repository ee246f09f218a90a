"""The rules of int8: which tensors and weights are rounded, and to which numbers.

Training rounds by these rules, and export writes pairs of QuantizeLinear and DequantizeLinear
(Q/DQ) by them, so that what was trained is what is deployed. This module needs no torch, no onnx.
There are two kinds, because the file that is fast in one runtime is slow in the other, or refused.

`int8`, for TensorRT: values are signed and symmetric, weights have one scale for each output
channel, biases stay in floating point. Q/DQ pairs stand before convolutions and on the skip branch
of a residual Add and nowhere else, so that TensorRT can still fuse convolution, addition and
activation. The last linear layer and the softmax keep their precision. The rules are those of
NVIDIA's Model-Optimizer (modelopt/onnx/quantization). Model-Optimizer itself is not used because
its version 0.47 requires onnx 1.21 and onnxruntime 1.24, and this project needs newer ones; a test
compares with the counts that it gives for both students.

`int8-cpu`, for the CPU kernels of ONNX Runtime: activations are unsigned with a zero point, which
also does the work of a ReLU, weights are signed, biases are int32. Every operator that has an
integer kernel is quantised. The pairs are written by onnxruntime's own quantizer; what it does with
the students is stated here, and a test compares the two.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from training.quantization.operators import ACTIVATIONS, WEIGHTED, Operator, producers, readers

Kind = Literal["int8", "int8-cpu"]
KINDS: tuple[Kind, ...] = ("int8", "int8-cpu")

_CHANNEL_MULTIPLE = 8  # an int8 kernel of TensorRT reads so many channels at once
# A dense convolution with fewer channels needs a multiple of 8 as its input or output channels.
_MIN_CHANNELS = 16
_MIN_DEPTHWISE_KERNEL = 3

# The operators for which onnxruntime's CPU provider has integer kernels, or which only move values.
CPU_OPERATORS = (
    "Add", "AveragePool", "Clip", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool",
    "MaxPool", "Relu", "Reshape", "Split", "Transpose",
)  # fmt: skip
# The logits stay in float32: with eight bits the probabilities would be too coarse.
CPU_FLOAT_OUTPUTS = ("Gemm",)
_MOVING = ("AveragePool", "Flatten", "MaxPool", "Reshape", "Transpose")
_JOINING = ("Add", "Concat")


@dataclass(frozen=True)
class Grid:
    """The numbers of an int8 kind.

    Attributes:
        signed: whether activations are symmetric around zero.
        activation_levels: steps from zero to the largest activation, or from the lowest to the
            highest one if they are not signed.
        lowest: the smallest integer of an activation; values below it are cut off.
        weight_levels: steps from zero to the largest weight of a channel.
        quantizes_outputs: whether a layer's output is in int8, too, before the next layer reads it.
    """

    signed: bool
    activation_levels: int
    lowest: int
    weight_levels: int
    quantizes_outputs: bool


GRIDS: dict[Kind, Grid] = {
    "int8": Grid(
        signed=True,
        activation_levels=127,
        lowest=-128,
        weight_levels=127,
        quantizes_outputs=False,
    ),
    # An x86 processor without VNNI adds two products of 8 bits in 16 bits, and the sum may not fit.
    # Weights of 7 bits avoid that (onnxruntime's `reduce_range`): on such a machine they reduced
    # the mean error of a probability from 0.0027 to 0.0002.
    "int8-cpu": Grid(
        signed=False, activation_levels=255, lowest=0, weight_levels=64, quantizes_outputs=True
    ),
}


@dataclass(frozen=True)
class Placement:
    """What is rounded in a network.

    Attributes:
        tensors: the names of the activations that have a range of their own, in order.
        moved: activations that are rounded with the range of another one, because their operator
            only moves its values; rounding them again changes nothing.
        reads: which inputs read rounded values: the operator's name and the number of the input.
        weights: the names of the operators whose weights are rounded.
    """

    tensors: tuple[str, ...]
    moved: dict[str, str]
    reads: frozenset[tuple[str, int]]
    weights: frozenset[str]


def placement(
    kind: Kind, operators: Sequence[Operator], *, left_out: Collection[str] = ()
) -> Placement:
    """What is rounded for a kind of file; operators named in `left_out` keep their precision."""
    place = _for_cpu if kind == "int8-cpu" else _for_tensorrt
    return place(operators, lambda operator: operator.name in left_out)


def has_int8_kernel(operator: Operator) -> bool:
    """Whether it is a convolution for which TensorRT has an int8 kernel.

    Where it has none, a Q/DQ pair would only add casts.
    """
    if operator.op_type != "Conv" or not operator.weights:
        return False
    outputs, inputs_per_group, *kernel = operator.weights
    if operator.groups > 1:
        return outputs % _CHANNEL_MULTIPLE == 0 and min(kernel) >= _MIN_DEPTHWISE_KERNEL
    sides = (outputs, inputs_per_group)
    return min(sides) >= _MIN_CHANNELS or any(side % _CHANNEL_MULTIPLE == 0 for side in sides)


def hidden_by_activation(operators: Sequence[Operator]) -> set[str]:
    """The outputs of layers that only an activation reads: only what comes after it is stored."""
    reading = readers(operators)
    return {
        name
        for operator in operators
        for name in operator.outputs
        if len(reading.get(name, ())) == 1 and reading[name][0].op_type in ACTIVATIONS
    }


def _for_tensorrt(operators: Sequence[Operator], stays: Callable[[Operator], bool]) -> Placement:
    made_by = producers(operators)
    reads: dict[tuple[str, int], str] = {}
    weights: set[str] = set()
    for operator in operators:
        if stays(operator):
            continue
        if has_int8_kernel(operator):
            reads[operator.name, 0] = operator.inputs[0]
            weights.add(operator.name)
        elif operator.op_type == "Add" and (skip := _skip_branch(operator, made_by)) is not None:
            reads[operator.name, skip] = operator.inputs[skip]
    tensors = tuple(dict.fromkeys(reads.values()))
    return Placement(tensors, {}, frozenset(reads), frozenset(weights))


def _skip_branch(addition: Operator, made_by: dict[str, Operator]) -> int | None:
    """Which input (0 or 1) of a residual Add is the skip branch; None if it is no residual Add.

    The other branch is the output of a convolution. It gets no Q/DQ pair, so that the addition can
    fuse with that convolution. The skip branch is the tensor from which the convolution was
    computed. In a block that changes the shape (ResNet) both branches end in a convolution; then
    the second operand counts as the skip branch.
    """
    if len(addition.inputs) != 2:  # noqa: PLR2004  # a constant is added, no branch
        return None
    first, second = (made_by.get(name) for name in addition.inputs)
    if first is None or second is None:
        return None
    if first.op_type == "Conv" and second.name in _before(first, made_by):
        return 1
    if second.op_type == "Conv" and first.name in _before(second, made_by):
        return 0
    return 1 if first.op_type == second.op_type == "Conv" else None


def _before(operator: Operator, made_by: dict[str, Operator]) -> set[str]:
    """The names of the operators that an operator needs, with itself."""
    found: set[str] = set()
    waiting = [operator]
    while waiting:
        current = waiting.pop()
        if current.name not in found:
            found.add(current.name)
            waiting += [made_by[name] for name in current.inputs if name in made_by]
    return found


def _for_cpu(operators: Sequence[Operator], stays: Callable[[Operator], bool]) -> Placement:
    rounding = _CpuRounding(hidden_by_activation(operators))
    for operator in operators:
        if operator.op_type in CPU_OPERATORS and not stays(operator):
            rounding.visit(operator)
    rounded = {*rounding.own, *rounding.moved}
    reads = frozenset(
        (operator.name, index)
        for operator in operators
        for index, name in enumerate(operator.inputs)
        if name in rounded
    )
    return Placement(tuple(rounding.own), rounding.moved, reads, frozenset(rounding.weights))


class _CpuRounding:
    """What onnxruntime's quantizer rounds, operator by operator."""

    def __init__(self, hidden: set[str]) -> None:
        self.own: dict[str, None] = {}
        self.moved: dict[str, str] = {}
        self.weights: set[str] = set()
        self._hidden = hidden

    def visit(self, operator: Operator) -> None:
        """Adds what is rounded because of an operator that has an integer kernel."""
        if operator.op_type in WEIGHTED:
            self.weights.add(operator.name)
            self._round(operator.inputs[0])
            if operator.op_type not in CPU_FLOAT_OUTPUTS:
                self._round(*operator.outputs)
        elif operator.op_type in _JOINING:
            self._round(*operator.inputs, *operator.outputs)
        elif operator.op_type in ACTIVATIONS:
            self._activate(operator)
        else:
            self._move(operator)

    def _round(self, *names: str) -> None:
        self.own.update(dict.fromkeys(name for name in names if name not in self.moved))

    def _activate(self, operator: Operator) -> None:
        source = operator.inputs[0]
        if source not in self.own:
            return
        if source in self._hidden:
            # The ends of the range do the activation's work, and the pair stands behind it.
            del self.own[source]
        self._round(*operator.outputs)

    def _move(self, operator: Operator) -> None:
        source = operator.inputs[0]
        if operator.op_type == "Split":
            self._round(source)
        if source in self.own or source in self.moved:
            owner = self.moved.get(source, source)
            self.moved.update(dict.fromkeys(operator.outputs, owner))
