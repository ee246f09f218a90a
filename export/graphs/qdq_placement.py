"""Where int8 stands in a graph: pairs of QuantizeLinear and DequantizeLinear (Q/DQ), in two kinds.

There are two kinds because the file that is fast in one runtime is slow in the other, or refused.

`int8`, for TensorRT: values are signed and symmetric, weights have one scale for each output
channel, biases stay in floating point. Q/DQ pairs stand before convolutions and on the skip branch
of a residual Add and nowhere else, so that TensorRT can still fuse convolution, addition and
activation. The last linear layer and the softmax keep their precision. The rules are those of
NVIDIA's Model-Optimizer (modelopt/onnx/quantization). Model-Optimizer itself is not used because
its version 0.47 requires onnx 1.21 and onnxruntime 1.24, and this project needs newer ones; a test
compares with the counts that it gives for both students.

`int8-cpu`, for the CPU kernels of ONNX Runtime: activations are unsigned with a zero point, which
also does the work of a ReLU, weights are signed, biases are int32. Every operator that has an
integer kernel is quantised, by onnxruntime's own quantizer.
"""

from collections.abc import Collection, Mapping

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from export.bundles.export_options import HALF_SCALES_OPSET
from export.graphs.activation_ranges import Range
from export.graphs.graph_edits import (
    add_constant,
    constant_of,
    drop_unused_constants,
    input_of,
    network_nodes,
    nodes_before,
)

_INT8_MAX = 127
_SMALLEST_HALF = float(np.finfo(np.float16).tiny)  # a scale becomes float16: never a subnormal one
_CHANNEL_MULTIPLE = 8  # an int8 kernel of TensorRT reads so many channels at once
# A dense convolution with fewer channels needs a multiple of 8 as its input or output channels.
_MIN_CHANNELS = 16
_MIN_DEPTHWISE_KERNEL = 3

# The operators for which onnxruntime's CPU provider has integer kernels, or which only move values.
_CPU_OPERATORS = (
    "Add", "AveragePool", "Clip", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool",
    "MaxPool", "Relu", "Reshape", "Split", "Transpose",
)  # fmt: skip


def to_int8_tensorrt(
    model: ir.Model, ranges: Mapping[str, Range], *, left_out: Collection[str] = ()
) -> ir.Model:
    """A copy of the float32 `model` with Q/DQ pairs as TensorRT wants them.

    From opset 19 on the weights are stored in int8. Older opsets are for TensorRT 8.6: the weights
    stay in floating point and get a Q/DQ pair of their own.

    Args:
        model: the float32 graph.
        ranges: the range of every quantised activation, under the tensor's name.
        left_out: names of nodes that stay in floating point.
    """
    result = model.clone()
    graph = result.graph
    store_int8 = result.opset_imports[""] >= HALF_SCALES_OPSET
    quantizer = _Quantizer(graph, ranges, store_int8=store_int8)
    for node in network_nodes(graph):
        if node.name in left_out:
            continue
        if has_int8_kernel(node):
            node.replace_input_with(0, quantizer.activation(input_of(node)))
            node.replace_input_with(1, quantizer.weight(input_of(node, 1)))
        elif node.op_type == "Add" and (skip := _skip_branch(node)) is not None:
            node.replace_input_with(skip, quantizer.activation(input_of(node, skip)))
    drop_unused_constants(graph)
    graph.sort()
    return result


def to_int8_cpu(
    model: ir.Model, ranges: Mapping[str, Range], *, left_out: Collection[str] = ()
) -> ir.Model:
    """A copy of the float32 `model` for onnxruntime's CPU provider.

    Activations are uint8, weights int8 ("U8S8").

    Args:
        model: the float32 graph.
        ranges: the range of every float tensor of the network, under the tensor's name.
        left_out: names of nodes that stay in floating point.
    """
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType

    # onnxruntime 1.23, the last one for Python 3.10, offers this class only here.
    from onnxruntime.quantization.calibrate import TensorsData

    observed = {
        name: (np.array(low, np.float32), np.array(high, np.float32))
        for name, (low, high) in ranges.items()
    }
    quantizer = QDQQuantizer(
        onnx.shape_inference.infer_shapes(ir.to_proto(model)),
        per_channel=True,
        # An x86 processor without VNNI adds two 8-bit products in 16 bits, and the sum may not fit.
        # Weights of 7 bits avoid that: on such a machine they reduced the mean error of a
        # probability from 0.0027 to 0.0002.
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, observed),
        nodes_to_quantize=[node.name for node in network_nodes(model.graph)],
        nodes_to_exclude=list(left_out),
        op_types_to_quantize=list(_CPU_OPERATORS),
        # The logits stay in float32: with eight bits the probabilities would be too coarse.
        extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
    )
    quantizer.quantize_model()
    result: ir.Model = ir.from_proto(quantizer.model.model)
    result.graph.sort()
    return result


class _Quantizer:
    """Adds Q/DQ pairs to a graph. A tensor gets one pair, also if several nodes read it."""

    def __init__(self, graph: ir.Graph, ranges: Mapping[str, Range], *, store_int8: bool) -> None:
        self._graph = graph
        self._ranges = ranges
        self._store_int8 = store_int8
        self._done: dict[str, ir.Value] = {}

    def activation(self, value: ir.Value) -> ir.Value:
        """The dequantised copy of an activation; it is made on the first call."""
        name = _name(value)
        if name not in self._done:
            scale = _scale_of(np.array(max(map(abs, self._ranges[name]))))
            parameters = self._parameters(name, scale)
            quantized = self._node("QuantizeLinear", [value, *parameters], f"{name}.int8", {})
            self._done[name] = self._dequantize(quantized, parameters, name, {})
        return self._done[name]

    def weight(self, value: ir.Value) -> ir.Value:
        """The dequantised copy of a convolution's weights (O, I / groups, H, W).

        Each output channel O has a scale of its own.
        """
        name = _name(value)
        weights = constant_of(value)
        if weights is None:
            raise AssertionError(f"the weights {name} are no constant")
        if name not in self._done:
            scale = _scale_of(np.abs(weights).max(axis=(1, 2, 3)))
            parameters = self._parameters(name, scale)
            axis = {"axis": 0}
            if self._store_int8:
                steps = np.round(weights / scale[:, None, None, None])
                integers = np.clip(steps, -_INT8_MAX, _INT8_MAX)
                quantized = add_constant(self._graph, f"{name}.int8", integers.astype(np.int8))
            else:
                source = [value, *parameters]
                quantized = self._node("QuantizeLinear", source, f"{name}.int8", axis)
            self._done[name] = self._dequantize(quantized, parameters, name, axis)
        return self._done[name]

    def _parameters(self, name: str, scale: NDArray[np.float32]) -> list[ir.Value]:
        """The scale and the zero point as initializers."""
        # TensorRT 8.6 requires that zero points are given; every version requires that they are 0.
        return [
            add_constant(self._graph, f"{name}.scale", scale),
            add_constant(self._graph, f"{name}.zero_point", np.zeros(scale.shape, np.int8)),
        ]

    def _dequantize(
        self, quantized: ir.Value, parameters: list[ir.Value], name: str, axis: dict[str, int]
    ) -> ir.Value:
        inputs = [quantized, *parameters]
        return self._node("DequantizeLinear", inputs, f"{name}.dequantized", axis)

    def _node(
        self, op_type: str, inputs: list[ir.Value], name: str, attributes: dict[str, int]
    ) -> ir.Value:
        node = ir.node(op_type, inputs, attributes=attributes, name=name)
        output = node.outputs[0]
        output.name = name
        quantizes = op_type == "QuantizeLinear"
        output.type = ir.TensorType(ir.DataType.INT8 if quantizes else ir.DataType.FLOAT)
        output.shape = inputs[0].shape
        self._graph.append(node)
        return output


def _name(value: ir.Value) -> str:
    if value.name is None:
        raise AssertionError("a value of the exported graph has no name")
    return value.name


def _scale_of(magnitude: NDArray[np.floating]) -> NDArray[np.float32]:
    """The step of a symmetric 8-bit grid that reaches `magnitude`; it is exact in float16."""
    step = np.maximum(magnitude / _INT8_MAX, _SMALLEST_HALF)
    return np.asarray(step, np.float16).astype(np.float32)


def has_int8_kernel(node: ir.Node) -> bool:
    """Whether the node is a convolution for which TensorRT has an int8 kernel.

    Where it has none, a Q/DQ pair would only add casts.
    """
    weights = constant_of(node.inputs[1]) if node.op_type == "Conv" else None
    if weights is None:
        return False
    outputs, inputs_per_group, *kernel = weights.shape
    groups = node.attributes["group"].as_int() if "group" in node.attributes else 1
    if groups > 1:
        return bool(outputs % _CHANNEL_MULTIPLE == 0 and min(kernel) >= _MIN_DEPTHWISE_KERNEL)
    sides = (outputs, inputs_per_group)
    return min(sides) >= _MIN_CHANNELS or any(side % _CHANNEL_MULTIPLE == 0 for side in sides)


def _skip_branch(node: ir.Node) -> int | None:
    """Which input (0 or 1) of a residual Add is the skip branch; None if it is no residual Add.

    The other branch is the output of a convolution. It gets no Q/DQ pair, so that the addition can
    fuse with that convolution. The skip branch is the tensor from which the convolution was
    computed. In a block that changes the shape (ResNet) both branches end in a convolution; then
    the second operand counts as the skip branch.
    """
    first, second = (None if value is None else value.producer() for value in node.inputs)
    if first is None or second is None:
        return None
    if first.op_type == "Conv" and second in nodes_before(node.inputs[0]):
        return 1
    if second.op_type == "Conv" and first in nodes_before(node.inputs[1]):
        return 0
    return 1 if first.op_type == second.op_type == "Conv" else None
