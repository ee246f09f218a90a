"""The float32 graph: what it computes, what it contains, and that no local path is left in it."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from export.graphs.to_onnx import ExportedGraph, _check, export_graph, model_bytes
from runtime.backends.onnx_session import OnnxSession
from runtime.base.errors import VerificationError
from runtime.model.card import INPUT_NAME, OUTPUT_NAME, InputSpec


@pytest.fixture(scope="module")
def expected(
    small: nn.Module, images: np.ndarray, spec: InputSpec, temperature: float
) -> np.ndarray:
    """What the contract of a bundle demands, computed in float64 in the plainest way."""
    pixels = (images / 255 - np.array(spec.mean)) / np.array(spec.std)
    with torch.no_grad():
        logits = deepcopy(small).double()(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))
    exponentials = np.exp(logits.numpy() / temperature)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("graph", ["small_graph", "legacy_graph"])
def test_graph_equals_the_student(
    graph: str, request: pytest.FixtureRequest, expected: np.ndarray, run
) -> None:
    probabilities = run(request.getfixturevalue(graph).model)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    assert len(set(expected.argmax(axis=1))) > 1, "the images must not all look the same"


def test_batch_is_free_and_images_do_not_mix(
    small_graph: ExportedGraph, images: np.ndarray
) -> None:
    content = model_bytes(small_graph.model, {})
    with OnnxSession(content, source="test", backend="onnx-cpu") as session:
        three = session.run(images[:3])
        one_by_one = np.concatenate([session.run(images[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(three, one_by_one, atol=1e-6)


@pytest.mark.parametrize(
    ("graph", "opset", "exporter"), [("small_graph", 20, "dynamo"), ("legacy_graph", 17, "legacy")]
)
def test_file_says_what_it_is(
    graph: str, opset: int, exporter: str, request: pytest.FixtureRequest
) -> None:
    exported = request.getfixturevalue(graph)
    proto = onnx.load_from_string(model_bytes(exported.model, {}))
    assert exported.opset == opset
    assert exported.exporter == f"torch {torch.__version__.partition('+')[0]} {exporter}"
    assert [(i.domain, i.version) for i in proto.opset_import] == [("", opset)]
    assert proto.ir_version <= 10
    (image,), (output,) = proto.graph.input, proto.graph.output
    assert (image.name, output.name) == (INPUT_NAME, OUTPUT_NAME)
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert (image.type.denotation, output.type.denotation) == ("IMAGE", "")
    assert output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert {i.type.tensor_type.shape.dim[0].dim_param for i in (image, output)} == {"batch"}


@pytest.mark.parametrize("graph", ["small_graph", "legacy_graph"])
def test_nothing_local_is_left(graph: str, request: pytest.FixtureRequest) -> None:
    content = model_bytes(request.getfixturevalue(graph).model, {})
    home = str(Path.home()).encode()
    for word in (b"stack_trace", b".py", b"site-packages", b"/work", b"/tmp", b"/root", home):
        assert word not in content, word
    proto = onnx.load_from_string(content)
    assert not proto.metadata_props
    assert not proto.doc_string
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)


@pytest.mark.parametrize("graph", ["small_graph", "legacy_graph"])
def test_batch_norm_is_folded(graph: str, request: pytest.FixtureRequest) -> None:
    operators = {node.op_type for node in request.getfixturevalue(graph).model.graph}
    assert not operators & {"BatchNormalization", "Constant", "Identity", "Dropout"}


def test_metadata_is_read_back_by_onnxruntime(small_graph: ExportedGraph) -> None:
    content = model_bytes(small_graph.model, {"a": "1", "b": "zwei"})
    with OnnxSession(content, source="test", backend="onnx-cpu") as session:
        assert dict(session.metadata) == {"a": "1", "b": "zwei"}


@pytest.mark.parametrize("opset", [17, 20])
def test_two_exports_are_equal_to_the_byte(
    opset: int, small: nn.Module, spec: InputSpec, temperature: float
) -> None:
    first, second = (
        model_bytes(export_graph(deepcopy(small), spec, temperature, opset=opset).model, {"a": "b"})
        for _ in range(2)
    )
    assert first == second


def test_a_fixed_batch_and_a_silently_changed_opset_are_refused(small_graph: ExportedGraph) -> None:
    fixed = small_graph.model.clone()
    fixed.graph.inputs[0].shape = ir.Shape([2, 32, 32, 3])
    with pytest.raises(VerificationError, match="batch of images came out as 2, not symbolic"):
        _check(fixed, 20)
    with pytest.raises(VerificationError, match="opset 18"):
        _check(small_graph.model, 18)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["mobilenetv2", "shufflenetv2"])
def test_file_has_the_parameters_of_torchvisions_plain_network(
    arch: str, student_graphs: dict[str, ExportedGraph], students: dict[str, nn.Module]
) -> None:
    """The file has one bias for each channel, in place of the scale and shift of BatchNorm."""
    plain = students[arch]
    folded = sum(
        parameter.numel()
        for module in plain.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if not (isinstance(module, nn.BatchNorm2d) and name == "weight")
    )
    assert type(plain).__module__.startswith("torchvision.models")
    stored = [
        value.const_value.size
        for name, value in student_graphs[arch].model.graph.initializers.items()
        if value.dtype == ir.DataType.FLOAT and value.const_value.size > 3
    ]
    assert sum(stored) == folded


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "nodes"), [("mobilenetv2", 106), ("shufflenetv2", 178)])
def test_students_graphs_stay_small(
    arch: str, nodes: int, student_graphs: dict[str, ExportedGraph]
) -> None:
    """TensorRT parses every node, and refuses graphs with five times as many (not folded)."""
    assert student_graphs[arch].model.graph.num_nodes() <= nodes
