"""`python export/run.py`: what it writes, what it prints, and what it refuses."""

import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from export import pipeline
from export.bundles.export_options import ExportOptions, parse_precisions
from export.graphs.to_onnx import kept_graph
from export.run import main
from runtime import open_classifier
from runtime.backends.onnx_session import OnnxSession
from runtime.base.errors import UserError
from runtime.base.files import sha256_of
from runtime.model.bundle import open_bundle, read_card, write_card
from runtime.model.card import METADATA_KEY, PRECISION_KEY, Quantization
from runtime.model.card_json import card_from_json
from training.data import Dataset

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_card_lists_every_file_with_its_figures(fitted_bundle: Path, fitted_run: Path) -> None:
    bundle = open_bundle(fitted_bundle)
    card = bundle.card
    assert [(file.precision, file.path) for file in card.files] == [
        ("fp32", "model.onnx"),
        ("fp16", "model.fp16.onnx"),
        ("int8", "model.int8.onnx"),
        ("int8-cpu", "model.int8-cpu.onnx"),
    ]
    for file in card.files:
        bundle.read(file)  # checks the digest
        assert file.parity.images == 240
        assert file.parity.reference_top1 == card.provenance.top1 > 0.95
        assert (file.opset, file.exporter.split()[-1]) == (17, "legacy")
        if file.precision.startswith("int8"):
            assert file.quantization == Quantization(calibration="minmax of 300 training images")
        else:
            assert file.quantization is None
    assert card.file("fp32").parity.max_difference < 1e-5
    assert card.temperature == 0.8
    provenance = card.provenance
    assert provenance.checkpoint_sha256 == sha256_of(fitted_run / "checkpoint.pt")
    assert (provenance.run, provenance.data, provenance.epochs) == ("quick", "patterns", 1)
    assert provenance.params > 300_000
    assert 0 < provenance.ece < 0.5
    assert provenance.terms == ("ce",)
    assert not card.engines


def test_card_describes_data_and_classes(fitted_bundle: Path, patterns: Dataset) -> None:
    """The student finds every test image of the toy patterns, or nearly every one."""
    card = open_bundle(fitted_bundle).card
    assert (card.data.train_images, card.data.test_images) == (
        len(patterns.train_labels) - card.data.validation_images,
        240,
    )
    top1 = card.provenance.top1
    # Each class has as many images as the others: the mean recall is the accuracy.
    assert card.quality.balanced_accuracy == pytest.approx(top1)
    assert card.quality.macro_f1 == pytest.approx(top1, abs=0.02)
    worst = card.quality.worst_class
    assert worst.name in card.class_names
    assert (worst.images, worst.recall <= top1) == (40, True)


def test_no_local_path_is_in_any_file(
    fitted_bundle: Path, fitted_run: Path, patterns_folder: Path
) -> None:
    """The checkpoint holds the path of the data. This path must not be in a file, either."""
    words = [
        str(fitted_run).encode(),
        str(patterns_folder).encode(),
        b"/tmp",
        b"/work",
        b"/home",
        b"/root",
        b"stack_trace",
    ]
    for path in fitted_bundle.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [word for word in words if word in content], path


def test_a_lone_file_carries_its_card(fitted_bundle: Path) -> None:
    for file in read_card(fitted_bundle).files:
        content = (fitted_bundle / file.path).read_bytes()
        with OnnxSession(content, source=file.path, backend="onnx-cpu") as session:
            card = card_from_json(session.metadata[METADATA_KEY], source=file.path)
            assert session.metadata[PRECISION_KEY] == file.precision
            # Of onnx.ai/onnx/repo-docs/MetadataProps.html, for tools that know nothing of the card.
            stated = {k: v for k, v in session.metadata.items() if k.startswith("Image.")}
            assert stated == {
                "Image.BitmapPixelFormat": "Rgb8",
                "Image.ColorSpaceGamma": "SRGB",
                "Image.NominalPixelRange": "NominalRange_0_255",
            }
        assert card.class_names == read_card(fitted_bundle).class_names
        assert (card.files, card.engines) == ((), ())
    example = fitted_bundle / "examples" / "red_fox.png"
    with open_classifier(fitted_bundle / "model.onnx") as classifier:
        assert classifier.classify(example)[0].label == "red fox"


def test_holdout_and_parity_come_from_torch(fitted_bundle: Path) -> None:
    with np.load(fitted_bundle / "holdout.npz") as held:
        images, expected = held["images"], held["probabilities"]
    content = (fitted_bundle / "model.onnx").read_bytes()
    with OnnxSession(content, source="model.onnx", backend="onnx-cpu") as session:
        np.testing.assert_allclose(session.run(images), expected, atol=1e-5)
    for file in read_card(fitted_bundle).files:
        assert file.holdout_parity is not None
        assert file.holdout_parity.images == len(images)


def test_it_says_what_it_does_and_adds_to_the_bundle(
    fitted_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "mine"
    shutil.copytree(fitted_run, run)
    assert main([str(run), "--opset", "17"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"run: {run}\n")
    assert "file" in told
    assert "largest diff." in told
    assert told.endswith(f"(`python -m runtime classify {run / 'bundle'} IMAGE`)\n")
    (row,) = [line for line in told.splitlines() if line.startswith("model.onnx")]
    assert "100.00%" in row
    assert [file.precision for file in read_card(run / "bundle").files] == ["fp32"]
    before = (run / "bundle" / "model.onnx").stat().st_mtime_ns
    assert main([str(run), "--opset", "17", "--precision", "fp16"]) == 0
    assert [file.precision for file in read_card(run / "bundle").files] == ["fp32", "fp16"]
    assert (run / "bundle" / "model.onnx").stat().st_mtime_ns == before


@pytest.fixture
def copied_run(fitted_run: Path, fitted_bundle: Path, tmp_path: Path) -> Path:
    """The run with its bundle of float32 only."""
    run = tmp_path / "quick"
    shutil.copytree(fitted_run, run)
    shutil.copytree(fitted_bundle, run / "bundle")
    card = read_card(run / "bundle")
    write_card(run / "bundle", msgspec.structs.replace(card, files=card.files[:1]))
    for name in ("model.fp16.onnx", "model.int8.onnx", "model.int8-cpu.onnx"):
        (run / "bundle" / name).unlink()
    return run


def options(*precisions: str) -> ExportOptions:
    return ExportOptions(precisions=precisions, opset=17, calibration="minmax")


def test_other_precisions_are_made_from_the_file_that_is_there(
    copied_run: Path, fitted_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("exported again")

    monkeypatch.setattr(pipeline, "export_graph", refuse)
    pipeline.export_run(copied_run, options("fp16", "int8"), lambda _text: None)
    assert read_card(copied_run / "bundle").files == read_card(fitted_bundle).files
    with pytest.raises(AssertionError, match="exported again"):
        pipeline.export_run(copied_run, options("fp32"), lambda _text: None)


@pytest.mark.parametrize("change", ["opset", "exporter", "content", "checkpoint"])
def test_a_file_that_is_not_what_would_be_exported_is_not_used(
    change: str, copied_run: Path
) -> None:
    folder = copied_run / "bundle"
    card = read_card(folder)
    digest = card.provenance.checkpoint_sha256
    assert kept_graph(folder, digest, 17) is not None
    (file,) = card.files
    if change == "opset":
        file = msgspec.structs.replace(file, opset=18)
    elif change == "exporter":
        file = msgspec.structs.replace(file, exporter="torch 0.0.0 legacy")
    elif change == "content":
        (folder / file.path).write_bytes(b"damaged")
    write_card(folder, msgspec.structs.replace(card, files=(file,)))
    assert kept_graph(folder, "f" * 64 if change == "checkpoint" else digest, 17) is None


@pytest.mark.parametrize("text", ["", "fp8", "fp32,", "fp32 fp16", "FP16", "int8-cpu"])
def test_unknown_precisions_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="is unknown; expected one or more of fp32,fp16,int8"):
        parse_precisions(text)


def test_precisions_come_once_and_in_order() -> None:
    assert parse_precisions("int8, fp32,int8") == ("fp32", "int8")


@pytest.mark.parametrize("opset", [3, 16, 21, -1])
def test_opsets_that_cannot_be_written_are_refused(opset: int) -> None:
    with pytest.raises(UserError, match=f"opset {opset} cannot be exported; choose 20"):
        ExportOptions(precisions=("fp32",), opset=opset)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["file.txt"], "file.txt is not a run"),
        (["empty"], "empty is not a run: it has no checkpoint.pt"),
        (["truncated"], "truncated/checkpoint.pt cannot be read: truncated"),
        (["truncated", "--precision", "fp8"], "precision 'fp8' is unknown"),
        (["truncated", "--opset", "3"], "opset 3 cannot be exported"),
        (["truncated", "--opset", "x"], "argument --opset: invalid int value"),
        (["truncated", "--calibration", "best"], "invalid choice: 'best'"),
        (["truncated", "--calibration", "minmax"], "does nothing without int8 in --precision"),
        (["truncated", "--out", "file.txt"], "file.txt is a file"),
        (["truncated", "--out", "empty/.."], "holds files and is no bundle"),
        (["half"], "half/result.json is not that of a finished run ('epochs')"),
        (["truncated", "--better"], "unrecognized arguments: --better"),
        ([], "runs/latest does not exist"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], words: str, fitted_run: Path, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "file.txt").write_text("text")
    (tmp_path / "empty").mkdir()
    (tmp_path / "truncated").mkdir()
    content = (fitted_run / "checkpoint.pt").read_bytes()
    (tmp_path / "truncated" / "checkpoint.pt").write_bytes(content[: len(content) // 2])
    shutil.copytree(fitted_run, tmp_path / "half")
    (tmp_path / "half" / "result.json").write_text('{"arch": "mobilenetv2"}')
    finished_checkpoint = torch.load(io.BytesIO(content), weights_only=True) | {"finished": True}
    torch.save(finished_checkpoint, tmp_path / "half" / "checkpoint.pt")
    finished = command("export/run.py", *arguments, cwd=tmp_path)
    assert finished.returncode == 2
    assert words in finished.stderr
    assert finished.stderr.count("\n") == 1
    assert "Traceback" not in finished.stderr + finished.stdout


def test_help_needs_no_torch(command: Command, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['run.py', '--help'];"
        "import runpy; runpy.run_module('export.run', run_name='__main__')"
    )
    finished = command("-c", code, cwd=tmp_path)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "--precision LIST" in finished.stdout


@pytest.mark.slow
def test_trained_student_passes_the_gate_in_every_precision(trained_bundle: Path) -> None:
    card = read_card(trained_bundle)
    assert [file.precision for file in card.files] == ["fp32", "fp16", "int8", "int8-cpu"]
    assert card.provenance.top1 >= 0.97
    for file in card.files:
        assert file.parity.top1 >= file.parity.reference_top1 - 0.01
        assert (file.opset, file.exporter.split()[-1]) == (20, "dynamo")
    assert card.file("fp32").parity.agreement == 1.0
    assert card.file("fp32").parity.max_difference <= 1e-4
    assert "chosen by top-1 on 512 others" in card.file("int8").quantization.calibration


@pytest.mark.slow
def test_two_exports_of_one_checkpoint_are_equal_to_the_byte(
    trained_bundle: Path, trained_run: Path, tmp_path: Path, monkeypatch, command: Command
) -> None:
    """The second one runs in another process, where sets have another order."""
    monkeypatch.setenv("PYTHONHASHSEED", "12345")
    out = tmp_path / "again"
    command(
        "export/run.py",
        trained_run,
        "--precision",
        "fp32,fp16,int8",
        "--out",
        out,
        cwd=tmp_path,
        check=True,
    )
    names = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    # Models; card, test and validation images; examples; what fails, and data.
    assert len(names) == 4 + 3 + 10 + 5
    for name in names:
        if name.name != "card.json":  # the kept bundle may list engines, too
            assert (trained_bundle / name).read_bytes() == (out / name).read_bytes(), name
    assert read_card(out).files == read_card(trained_bundle).files
