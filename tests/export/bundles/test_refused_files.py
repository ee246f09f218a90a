"""A damaged file, made from a sound one, does not get into a bundle."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from export import pipeline
from export.bundles.export_options import ExportOptions
from export.run import main
from runtime.base.errors import VerificationError
from runtime.evaluation.gate import compare, complaint
from runtime.model.bundle import read_card
from runtime.model.card import CARD_FILE


def initializer(model: ir.Model, name: str) -> ir.Value:
    return model.graph.initializers[name]


def scale_constant(model: ir.Model, name: str, factor: float) -> None:
    value = initializer(model, name)
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(factor))


def swap_channels(model: ir.Model) -> None:
    """The first convolution sees BGR."""
    weights = next(node for node in model.graph if node.op_type == "Conv").inputs[1]
    weights.const_value = ir.tensor(weights.const_value.numpy()[:, ::-1].copy())


def wrong_mean(model: ir.Model) -> None:
    shift = initializer(model, "shift")
    shift.const_value = ir.tensor(shift.const_value.numpy() + np.float32(0.1))


def wrong_scale(model: ir.Model) -> None:
    scale_constant(model, "scale", 1.05)


@pytest.mark.parametrize("damage", [swap_channels, wrong_mean, wrong_scale])
def test_a_damaged_float32_file_is_refused(
    damage: Callable[[ir.Model], None], small_graph, images: np.ndarray, run
) -> None:
    reference = run(small_graph.model)
    labels = reference.argmax(axis=1)
    names = tuple(map(str, range(reference.shape[1])))
    assert complaint(compare(run(small_graph.model), reference, labels, names), "fp32") is None
    damaged = small_graph.model.clone()
    damage(damaged)
    assert complaint(compare(run(damaged), reference, labels, names), "fp32") is not None


@pytest.fixture
def broken_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """The int8 file for TensorRT comes out with the input's scale far too large, for no layer."""
    convert = pipeline.Int8Exporter.quantize

    def quantize(self, kind, calibration):
        quantized = convert(self, kind, calibration)
        if kind == "int8":
            scale_constant(quantized.model, "normalised.scale", 1e4)
        return quantized

    monkeypatch.setattr(pipeline.Int8Exporter, "quantize", quantize)
    monkeypatch.setattr(pipeline.Int8Exporter, "repair", lambda self, kind, calibration: None)


def test_a_corrupted_int8_scale_ends_in_exit_3_and_an_unlisted_file(
    broken_scale: None, fitted_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    arguments = [str(fitted_run), "--out", str(bundle), "--opset", "17", "--calibration", "minmax"]
    with pytest.raises(VerificationError, match=r"model\.int8\.onnx.* not kept: top-1 .* below"):
        main([*arguments, "--precision", "fp32,int8"])
    assert "outside its tolerance: model.int8.onnx" in capsys.readouterr().out
    assert [file.precision for file in read_card(bundle).files] == ["fp32", "int8-cpu"]
    assert not (bundle / "model.int8.onnx").exists()
    assert main([*arguments, "--precision", "int8", "--allow-drop"]) == 0
    listed = {file.precision: file for file in read_card(bundle).files}
    assert set(listed) == {"fp32", "int8", "int8-cpu"}
    assert listed["int8"].parity.top1 < listed["int8"].parity.reference_top1 - 0.01


def test_nothing_is_written_when_the_only_file_fails(
    monkeypatch: pytest.MonkeyPatch, fitted_run: Path, tmp_path: Path
) -> None:
    export = pipeline.export_graph

    def export_damaged(*arguments, **options):
        exported = export(*arguments, **options)
        wrong_mean(exported.model)
        return exported

    monkeypatch.setattr(pipeline, "export_graph", export_damaged)
    options = ExportOptions(precisions=("fp32",), opset=17, out=tmp_path / "bundle")
    exported = pipeline.export_run(fitted_run, options, lambda _text: None)
    assert exported.written is None
    assert not (tmp_path / "bundle" / CARD_FILE).exists()
