"""Writes the pairs of QuantizeLinear and DequantizeLinear (Q/DQ) of int8 into a graph.

Where they stand, and why there are two kinds, is stated in `training.quantization.qdq_rules`, by
which int8 is also trained. For TensorRT the pairs are written here, for the CPU kernels of ONNX
Runtime by onnxruntime's own quantizer.
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
)
from export.graphs.onnx_operators import operators_of
from training.quantization.qdq_rules import CPU_FLOAT_OUTPUTS, CPU_OPERATORS, placement

_INT8_MAX = 127
_SMALLEST_HALF = float(np.finfo(np.float16).tiny)  # a scale becomes float16: never a subnormal one


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
    network = operators_of(result)
    stay = {operator.name for operator, node in network.nodes.items() if node.name in left_out}
    placed = placement("int8", network.operators, left_out=stay)
    for operator, node in network.nodes.items():
        for index in range(len(operator.inputs)):
            if (operator.name, index) in placed.reads:
                node.replace_input_with(index, quantizer.activation(input_of(node, index)))
        if operator.name in placed.weights:
            node.replace_input_with(1, quantizer.weight(input_of(node, 1)))
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
        ranges: the range of every float tensor of the network, under the tensor's name; the pooled
            features may be missing, and then stay in floating point.
        left_out: names of nodes that stay in floating point.
    """
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType

    # onnxruntime 1.23, the last one for Python 3.10, offers this class only here.
    from onnxruntime.quantization.calibrate import TensorsData

    observed = {
        name: (np.array(low, np.float32), np.array(high, np.float32))
        for name, (low, high) in ranges.items()
    }
    nodes = network_nodes(model.graph)
    # Only the legacy exporter writes this operator. Learned ranges have none for its output.
    pools = [node for node in nodes if node.op_type == "GlobalAveragePool"]
    stay = [node.name for node in pools if node.outputs[0].name not in ranges]
    quantizer = QDQQuantizer(
        onnx.shape_inference.infer_shapes(ir.to_proto(model)),
        per_channel=True,
        reduce_range=True,  # of the weights only, see `training.quantization.qdq_rules.GRIDS`
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, observed),
        nodes_to_quantize=[node.name for node in nodes],
        nodes_to_exclude=[*left_out, *stay],
        op_types_to_quantize=list(CPU_OPERATORS),
        extra_options={"OpTypesToExcludeOutputQuantization": list(CPU_FLOAT_OUTPUTS)},
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
