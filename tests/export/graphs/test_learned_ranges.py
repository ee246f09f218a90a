"""Learned and calibrated int8 are one recipe: the same pairs, and the numbers that were trained."""

import copy
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from export.graphs.activation_ranges import observe, ranges
from export.graphs.graph_edits import constant_of
from export.graphs.learned_ranges import ranges_of_graph
from export.graphs.onnx_operators import operators_of
from export.graphs.qdq_placement import to_int8_cpu, to_int8_tensorrt
from export.graphs.to_onnx import ExportedGraph, export_graph, model_bytes
from runtime.backends.onnx_session import OnnxSession
from runtime.base.errors import UserError
from runtime.model.card import InputSpec
from training.augmentation.augment import channel_statistics, normalise
from training.data import Dataset
from training.networks.students import build_student
from training.quantization.qdq_rules import placement
from training.quantization.quantized_student import QuantizedStudent

CONVERT = {"int8": to_int8_tensorrt, "int8-cpu": to_int8_cpu}
KINDS = tuple(CONVERT)


def pairs(model: ir.Model) -> list[tuple[str, ...]]:
    """Each Q/DQ node with the tensors that it reads and gives, and whether they are constants."""
    return [
        (
            node.op_type,
            node.inputs[0].name,
            node.outputs[0].name,
            str(constant_of(node.inputs[2]).dtype),
            *sorted(use.node.name for use in node.outputs[0].uses()),
        )
        for node in model.graph
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]


def scales(model: ir.Model) -> dict[str, np.ndarray]:
    found = [node for node in model.graph if node.op_type == "DequantizeLinear"]
    return {node.outputs[0].name: constant_of(node.inputs[1]) for node in found}


def quantized(student: nn.Module, kind: str, images: np.ndarray, spec: InputSpec):
    """The student through int8 numbers, with steps that differ from what was observed."""
    learning = QuantizedStudent(student, kind, arch="a student")
    pixels = normalise(torch.from_numpy(images), *channel_statistics(spec, torch.device("cpu")))
    learning.observe(pixels)
    with torch.no_grad():
        learning.growth.uniform_(-0.02, 0.0, generator=torch.Generator().manual_seed(0))
        answers = torch.softmax(learning(pixels) / 1.7, dim=1).numpy()
    return learning, answers


@pytest.fixture(scope="module")
def trained_students(fit_student: Callable[[str, float], nn.Module]) -> dict[str, nn.Module]:
    """Both students in evaluation mode. Read only."""
    widths = {"mobilenetv2": 0.25, "shufflenetv2": 0.5}
    return {arch: fit_student(arch, width) for arch, width in widths.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_have_the_same_pairs_and_the_numbers_that_learned(
    kind: str, small: nn.Module, small_graph: ExportedGraph, images: np.ndarray, spec, run
) -> None:
    learning, answers = quantized(small, kind, images, spec)
    calibrated = CONVERT[kind](
        small_graph.model, ranges(observe(small_graph.model, images), "minmax")
    )
    found = ranges_of_graph(small_graph.model, kind, learning.ranges())
    learned = CONVERT[kind](small_graph.model, found)
    assert pairs(learned) == pairs(calibrated)
    differing = [
        k for k, scale in scales(learned).items() if (scales(calibrated)[k] != scale).any()
    ]
    assert len(differing) >= len(learning.ranges()) - 1
    # Bounds: a value on the edge of two steps may round either way.
    difference = np.abs(run(learned) - answers)
    assert difference.mean() < 1e-3
    assert (run(learned).argmax(axis=1) == answers.argmax(axis=1)).mean() >= 0.98


@pytest.mark.parametrize("kind", KINDS)
def test_the_rules_are_what_the_files_hold(
    kind: str, small_graph: ExportedGraph, images: np.ndarray
) -> None:
    check_placement(kind, small_graph.model, images)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arch", ["mobilenetv2", "shufflenetv2"])
def test_both_forms_of_a_student_are_rounded_alike(
    arch: str, kind: str, students, student_graphs, images: np.ndarray
) -> None:
    graph = student_graphs[arch].model
    check_placement(kind, graph, images)
    learning = QuantizedStudent(copy.deepcopy(students[arch]), kind, arch=arch)
    assert learning.ranges().keys() <= set(operators_of(graph).names.values())
    assert ranges_of_graph(graph, kind, learning.ranges())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arch", ["mobilenetv2", "shufflenetv2"])
def test_a_trained_student_answers_in_training_as_its_file_does(
    arch: str, kind: str, trained_students: dict[str, nn.Module], patterns: Dataset
) -> None:
    """Bounds: the same answer on 99 % of the images, 0.001 in the mean of a probability."""
    student, spec = copy.deepcopy(trained_students[arch]), patterns.input
    images = np.array(patterns.test_images)
    learning, answers = quantized(student, kind, images, spec)
    assert (answers.argmax(axis=1) == patterns.test_labels).mean() > 0.9  # it has learned
    graph = export_graph(trained_students[arch], spec, 1.7, opset=17).model
    model = CONVERT[kind](graph, ranges_of_graph(graph, kind, learning.ranges()))
    with OnnxSession(model_bytes(model, {}), source="test", backend="onnx-cpu") as session:
        found = session.run(images)
    assert np.abs(found - answers).mean() < 1e-3
    assert (found.argmax(axis=1) == answers.argmax(axis=1)).mean() >= 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_the_legacy_exporters_graph_has_the_same_names(kind: str, spec: InputSpec) -> None:
    student = build_student("shufflenetv2", num_classes=5, image_size=16, width=0.5).eval()
    learning = QuantizedStudent(student, kind, arch="shufflenetv2")
    small = InputSpec(size=16, resize=16, crop=16, mean=spec.mean, std=spec.std)
    graph = export_graph(student, small, 1.0, opset=17).model
    found = ranges_of_graph(graph, kind, learning.ranges())
    assert CONVERT[kind](graph, found) is not None


def test_a_missing_range_is_one_line(small_graph: ExportedGraph) -> None:
    with pytest.raises(UserError, match="have none for normalised"):
        ranges_of_graph(small_graph.model, "int8", {})


def check_placement(kind: str, graph: ir.Model, images: np.ndarray) -> None:
    """Compares the rules with the pairs in a file, which onnxruntime may have written."""
    network = operators_of(graph)
    placed = placement(kind, network.operators)
    model = CONVERT[kind](graph, ranges(observe(graph, images[:8]), "minmax"))
    written = {
        network.names[node.inputs[0].name]
        for node in model.graph
        if node.op_type == "QuantizeLinear" and constant_of(node.inputs[0]) is None
    }
    assert written == {*placed.tensors, *placed.moved}
    weights = [
        node
        for node in model.graph
        if node.op_type == "DequantizeLinear"
        and (stored := constant_of(node.inputs[0])) is not None
        and stored.ndim > 1
    ]
    assert len(weights) == len(placed.weights)
