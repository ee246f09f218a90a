"""An int8 graph that loses too much leaves its most sensitive layers in a higher precision."""

import copy
import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from export import pipeline
from export.bundles.export_options import ExportOptions
from export.graphs.network_layers import macs_share, network_layers
from export.graphs.to_int8 import CalibrationData, Int8Exporter, Kind, Quantized
from export.graphs.to_onnx import ExportedGraph, export_graph, model_bytes
from export.trained_run import RunToExport, read_run
from runtime.backends.onnx_session import OnnxSession
from runtime.evaluation.gate import compare, complaint
from runtime.model.bundle import read_card
from runtime.model.locate import CHECKPOINT
from training.networks.students import build_student, cost_of

BLOCK = 8  # of MobileNetV2: a residual block in the middle
ACTIVATION, NEXT = "conv.1.1", "conv.2"


def inflate(block: nn.Module, *, channels: int, factor: float) -> None:
    """The depthwise layer's first channels become `factor` times as large as the others.

    The others are made smaller, so that no ReLU6 cuts the large ones off, and the next layer's
    weights make up for it: the network computes the same. But one scale for all channels has no
    steps left for the small ones.
    """
    norm, following = block.get_submodule(ACTIVATION), block.get_submodule(NEXT)
    with torch.no_grad():
        norm.weight[channels:] /= factor
        norm.bias[channels:] /= factor
        following.weight[:, channels:] *= factor


@pytest.fixture(scope="module")
def trained(trained_run: Path) -> RunToExport:
    """The MobileNetV2 that `make run` has trained on digits."""
    return read_run(trained_run, lambda text: None)


@pytest.fixture(scope="module")
def inflated(trained: RunToExport) -> ExportedGraph:
    student = copy.deepcopy(trained.student)
    inflate(student.get_submodule(f"features.{BLOCK}"), channels=2, factor=500.0)
    return export_graph(student, trained.card.input, trained.card.temperature, opset=17)


def run(model: ir.Model, images: np.ndarray) -> np.ndarray:
    with OnnxSession(model_bytes(model, {}), source="test", backend="onnx-cpu") as session:
        return session.run(images)


@pytest.mark.parametrize("kind", ["int8", "int8-cpu"])
def test_inflated_channels_fail_and_pass_with_few_layers_left_out(
    inflated: ExportedGraph, trained: RunToExport, kind: Kind
) -> None:
    images, labels, names = trained.test.images, trained.test.labels, trained.card.class_names
    reference = run(inflated.model, images)
    full = trained.calibration_data()
    data = CalibrationData(
        full.images[:64], full.validation_images[:128], full.validation_labels[:128]
    )
    exporter = Int8Exporter(inflated.model, data, run)

    def complaint_of(quantized: Quantized | None) -> str | None:
        assert quantized is not None
        found = compare(run(quantized.model, images), reference, labels, names)
        return complaint(found, kind)

    assert complaint_of(exporter.quantize(kind, "minmax")) is not None
    mended = exporter.repair(kind, "minmax")
    assert complaint_of(mended) is None
    assert mended is not None
    assert f"features.{BLOCK}.{NEXT}" in mended.left_out
    assert len(mended.left_out) <= 3
    assert 0 < mended.left_out_macs < 0.1


def test_layers_have_the_names_and_multiply_adds_of_the_student(inflated: ExportedGraph) -> None:
    layers = network_layers(inflated.model)
    student = build_student("mobilenetv2", num_classes=10, image_size=32)
    assert sum(layer.macs for layer in layers) == cost_of(student, image_size=32).macs
    names = [layer.name for layer in layers if layer.macs]
    modules = dict(student.named_modules())
    assert all(isinstance(modules[name], nn.Conv2d | nn.Linear) for name in names)
    assert len(names) == len(set(names)) == 53
    depthwise = next(layer for layer in layers if layer.name == "features.8.conv.1.0")
    assert len(depthwise.nodes) == 2  # with its ReLU6
    assert macs_share(layers, layers) == 1.0


def test_a_graph_that_few_layers_do_not_mend_is_given_up(
    small_graph: ExportedGraph, images: np.ndarray
) -> None:
    """Each int8 graph answers at random here, whatever is left out."""
    data = CalibrationData(images, images, np.zeros(len(images), np.int64))
    generator = np.random.default_rng(0)

    def at_random(model, some: np.ndarray) -> np.ndarray:
        if model is small_graph.model:
            return run(model, some)
        return generator.dirichlet(np.ones(5), len(some)).astype(np.float32)

    exporter = Int8Exporter(small_graph.model, data, at_random)
    assert exporter.repair("int8", "minmax") is None


def test_an_export_names_the_layers_in_the_card(
    fitted_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The test images are asked twice: for the plain file, and at the end for the mended one."""
    folder = tmp_path / "quick"
    shutil.copytree(fitted_run, folder)
    checkpoint = torch.load(folder / CHECKPOINT, weights_only=True)
    state = checkpoint["student"]
    norm, following = "stage3.1.branch2.4", "stage3.1.branch2.5.weight"
    state[f"{norm}.weight"][2:] /= 500
    state[f"{norm}.bias"][2:] /= 500
    state[following][:, 2:] *= 500
    torch.save(checkpoint, folder / CHECKPOINT)
    asked = []
    verify = pipeline._verify

    def counted(precision, *arguments, **options):
        asked.append(precision)
        return verify(precision, *arguments, **options)

    monkeypatch.setattr(pipeline, "_verify", counted)
    options = ExportOptions(("fp32", "int8"), opset=17, calibration="minmax")
    pipeline.export_and_report(folder, options)
    said = capsys.readouterr().out
    files = {file.precision: file for file in read_card(folder / "bundle").files}
    for precision in ("int8", "int8-cpu"):
        found = files[precision].quantization
        assert asked.count(precision) == 2
        assert "stage3.1.branch2.5" in found.higher_precision
        assert 0 < found.higher_precision_macs < 0.25
        assert f"{files[precision].path}: in a higher precision stay " in said
