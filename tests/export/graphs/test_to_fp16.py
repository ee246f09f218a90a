"""The network is float16, all of it; the normalisation of the input and the softmax are not."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from export.graphs.graph_edits import LOGITS, NORMALISED, network_nodes
from export.graphs.to_fp16 import to_fp16
from export.graphs.to_onnx import ExportedGraph, model_bytes
from runtime.base.errors import VerificationError

GRAPHS = ("small_graph", "legacy_graph")


@pytest.fixture(params=GRAPHS)
def pair(request: pytest.FixtureRequest) -> tuple[ir.Model, ir.Model]:
    model = request.getfixturevalue(request.param).model
    return model, to_fp16(model)


def test_precision_of_every_tensor(pair: tuple[ir.Model, ir.Model]) -> None:
    _, half = pair
    inside = set(network_nodes(half.graph))
    network = {value for node in inside for value in node.outputs}
    floats = {ir.DataType.FLOAT, ir.DataType.FLOAT16}
    for node in half.graph:
        for value in node.outputs:
            if value.dtype in floats:
                expected = value in network or value.name == f"{NORMALISED}.half"
                assert (value.dtype == ir.DataType.FLOAT16) == expected, value.name
    assert not {
        value.name
        for node in inside
        for value in node.inputs
        if value is not None and value.dtype == ir.DataType.FLOAT and value.name != NORMALISED
    }


def test_it_has_two_casts_more(pair: tuple[ir.Model, ir.Model]) -> None:
    single, half = pair
    casts = [
        [node.outputs[0].name for node in model.graph if node.op_type == "Cast"] for model in pair
    ]
    assert set(casts[1]) - set(casts[0]) == {f"{NORMALISED}.half", f"{LOGITS}.float"}
    assert half.graph.num_nodes() == single.graph.num_nodes() + 2


def test_it_computes_the_same_to_float16(pair: tuple[ir.Model, ir.Model], run) -> None:
    single, half = (run(model) for model in pair)
    assert 0 < np.abs(single - half).max() < 0.01
    np.testing.assert_allclose(half.sum(axis=1), 1, atol=1e-6)  # a float32 softmax


def test_source_is_untouched_and_weights_are_halved(small_graph: ExportedGraph) -> None:
    before = model_bytes(small_graph.model, {})
    half = model_bytes(to_fp16(small_graph.model), {})
    assert model_bytes(small_graph.model, {}) == before
    assert half == model_bytes(to_fp16(small_graph.model), {})
    constants = onnx.load_from_string(half).graph.initializer
    kept = [constant for constant in constants if constant.data_type == onnx.TensorProto.FLOAT]
    assert len(kept) <= 3  # scale, shift, temperature


def test_weights_beyond_float16_are_refused(small_graph: ExportedGraph) -> None:
    model = small_graph.model.clone()
    weights = next(n for n in model.graph if n.op_type == "Gemm").inputs[1]
    weights.const_value = ir.tensor(1e6 * weights.const_value.numpy())
    with pytest.raises(
        VerificationError, match=r"classifier\.weight holds .* float16 ends at 65504"
    ):
        to_fp16(model)
