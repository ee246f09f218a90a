"""Where Q/DQ pairs stand and which types they have, for TensorRT and for onnxruntime."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from export.graphs.activation_ranges import observe, ranges
from export.graphs.graph_edits import LOGITS, constant_of
from export.graphs.qdq_placement import to_int8_cpu, to_int8_tensorrt
from export.graphs.to_fp16 import to_fp16
from export.graphs.to_onnx import ExportedGraph, model_bytes
from runtime.model.card import INPUT_NAME

Operators = Callable[[ir.Model, str], list[ir.Node]]


@pytest.fixture(scope="module")
def small_ranges(small_graph: ExportedGraph, images: np.ndarray):
    return ranges(observe(small_graph.model, images), "minmax")


@pytest.fixture(scope="module")
def for_tensorrt(small_graph: ExportedGraph, small_ranges) -> ir.Model:
    return to_int8_tensorrt(small_graph.model, small_ranges)


@pytest.fixture(scope="module")
def for_cpu(small_graph: ExportedGraph, small_ranges) -> ir.Model:
    return to_int8_cpu(small_graph.model, small_ranges)


def inputs_by(node: ir.Node) -> list[str]:
    """Operators that compute a node's inputs; "-" for constants."""
    producers = [value.producer() if value is not None else None for value in node.inputs]
    return ["-" if producer is None else producer.op_type for producer in producers]


def test_only_convolutions_with_int8_kernels_are_quantised(
    for_tensorrt: ir.Model, operators: Operators
) -> None:
    quantised = {
        (node.outputs[0].shape[1], node.attributes["group"].as_int()): inputs_by(node)[:2]
        for node in operators(for_tensorrt, "Conv")
    }
    int8 = ["DequantizeLinear", "DequantizeLinear"]
    assert quantised[16, 16] == int8  # depthwise, a multiple of eight
    assert quantised[20, 1] == int8
    assert quantised[20, 20] == ["Clip", "-"]  # depthwise, 20 channels: no kernel
    assert all(inputs_by(node)[2] == "-" for node in operators(for_tensorrt, "Conv"))


def test_only_the_skip_branch_of_the_addition_is_quantised(
    for_tensorrt: ir.Model, operators: Operators
) -> None:
    (addition,) = operators(for_tensorrt, "Add")
    assert sorted(inputs_by(addition)) == ["Conv", "DequantizeLinear"]


def test_classifier_and_softmax_keep_their_precision(
    for_tensorrt: ir.Model, operators: Operators
) -> None:
    (classifier,) = operators(for_tensorrt, "Gemm")
    assert "DequantizeLinear" not in inputs_by(classifier)
    readers = [
        use.node.op_type
        for node in for_tensorrt.graph
        for value in node.outputs
        if value.name == LOGITS
        for use in value.uses()
    ]
    assert readers == ["Div"]


def test_tensorrt_gets_signed_symmetric_values_and_no_quantised_bias(
    for_tensorrt: ir.Model,
) -> None:
    pairs = [
        node
        for node in for_tensorrt.graph
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]
    zero_points = [constant_of(node.inputs[2]) for node in pairs]
    assert {str(zero.dtype) for zero in zero_points} == {"int8"}
    assert not any(zero.any() for zero in zero_points)
    for node in pairs:
        source = constant_of(node.inputs[0])
        if source is not None:  # weights: one scale a channel, the symmetric grid only
            scale = constant_of(node.inputs[1])
            assert (source.dtype, len(scale)) == (np.int8, len(source))
            assert (np.abs(source).reshape(len(source), -1).max(axis=1) == 127).all()
            assert node.attributes["axis"].as_int() == 0
        scale = constant_of(node.inputs[1])
        assert (scale.astype(np.float16) == scale).all(), "a scale must be exact in float16"


def test_for_tensorrt_8_6_weights_stay_in_floating_point(
    legacy_graph: ExportedGraph, images: np.ndarray, operators: Operators, run
) -> None:
    model = to_int8_tensorrt(
        legacy_graph.model, ranges(observe(legacy_graph.model, images), "minmax")
    )
    for node in operators(model, "Conv"):
        if inputs_by(node)[1] == "DequantizeLinear":
            assert inputs_by(node.inputs[1].producer())[0] == "QuantizeLinear"
    integers = [v for v in model.graph.initializers.values() if v.dtype == ir.DataType.INT8]
    assert {v.const_value.numpy().any() for v in integers} == {False}  # zero points only
    assert np.abs(run(model) - run(legacy_graph.model)).max() < 0.1


def test_cpu_gets_unsigned_activations_signed_7_bit_weights_and_int32_biases(
    for_cpu: ir.Model, operators: Operators
) -> None:
    for node in operators(for_cpu, "Conv"):
        image, weights, bias = (value.producer() for value in node.inputs)
        assert constant_of(image.inputs[2]).dtype == np.uint8
        stored = constant_of(weights.inputs[0])
        assert (stored.dtype, stored.min() >= -64, stored.max() <= 64) == (np.int8, True, True)
        assert constant_of(bias.inputs[0]).dtype == np.int32
    (classifier,) = operators(for_cpu, "Gemm")
    assert [use.node.op_type for use in classifier.outputs[0].uses()] == ["Div"]


def test_both_kinds_stay_near_float32(
    small_graph: ExportedGraph, for_tensorrt: ir.Model, for_cpu: ir.Model, run
) -> None:
    exact = run(small_graph.model)
    for model in (for_tensorrt, to_fp16(for_tensorrt), for_cpu):
        difference = np.abs(run(model) - exact)
        assert 0 < difference.mean() < 0.01
        assert difference.max() < 0.1


def test_equal_inputs_give_equal_bytes(small_graph: ExportedGraph, small_ranges) -> None:
    for convert in (to_int8_tensorrt, to_int8_cpu):
        first, second = (
            model_bytes(convert(small_graph.model, small_ranges), {}) for _ in range(2)
        )
        assert first == second


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "convolutions", "depthwise_left_out", "additions"),
    [("mobilenetv2", 52, 0, 10), ("shufflenetv2", 43, 13, 0)],
)
def test_students_are_quantised_by_nvidias_rules(
    arch: str,
    convolutions: int,
    depthwise_left_out: int,
    additions: int,
    student_graphs: dict[str, ExportedGraph],
    images: np.ndarray,
    operators: Operators,
) -> None:
    """Model-Optimizer 0.47 gives these counts. 13 layers of ShuffleNetV2 are no multiple of 8."""
    graph = student_graphs[arch].model
    model = to_int8_tensorrt(graph, ranges(observe(graph, images[:8]), "minmax"))
    kinds = Counter(
        (node.attributes["group"].as_int() > 1, inputs_by(node)[1] == "DequantizeLinear")
        for node in operators(model, "Conv")
    )
    assert kinds[True, True] + kinds[False, True] == convolutions
    assert kinds[True, False] == depthwise_left_out
    assert kinds[False, False] == 0
    residual = [inputs_by(node) for node in operators(model, "Add")]
    assert len(residual) == additions
    assert all(sorted(branches) == ["Conv", "DequantizeLinear"] for branches in residual)


@pytest.mark.slow
def test_onnxruntimes_broken_optimiser_is_kept_away(
    student_graphs: dict[str, ExportedGraph], images: np.ndarray, run
) -> None:
    """WeightBiasQuantization computes int8 over float16 wrongly; the session leaves it out."""
    graph = student_graphs["mobilenetv2"].model
    model = to_fp16(to_int8_tensorrt(graph, ranges(observe(graph, images), "minmax")))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(model_bytes(model, {}), options)
    (expected,) = plain.run(None, {INPUT_NAME: images})
    # A value on the edge of two steps may round either way; garbage has a mean of 0.1 and more.
    assert np.abs(run(model) - expected).mean() < 0.005
