"""The bundle carries the run's files that say what fails, and no picture that is not wanted."""

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from export import build_trt, pipeline
from export import run as export_command
from export.trained_run import read_run
from runtime.evaluation.class_report import REPORT_FILES
from training.records.checkpoint import read_checkpoint, save_checkpoint

FIELDS = ("epochs", "top1", "top5", "ece", "params", "macs", "recipe", "versions")


@pytest.fixture
def finished_run(fitted_run: Path, tmp_path: Path) -> Path:
    """The fitted run with a result, and with reports whose content is their name."""
    folder = shutil.copytree(fitted_run, tmp_path / "finished")
    measured = read_run(folder, lambda _text: None).card.provenance
    result = {name: msgspec.to_builtins(getattr(measured, name)) for name in FIELDS}
    (folder / "result.json").write_text(json.dumps(result))
    checkpoint = read_checkpoint(folder / "checkpoint.pt")
    save_checkpoint(
        folder / "checkpoint.pt", type(checkpoint)(**{**vars(checkpoint), "finished": True})
    )
    for name in REPORT_FILES:
        (folder / name).write_text(name)
    return folder


def export(folder: Path, *words: str) -> dict[str, str]:
    """The reports that are in the bundle after an export."""
    assert export_command.main([str(folder), "--opset", "17", *words]) == 0
    files = (folder / "bundle" / name for name in REPORT_FILES)
    return {file.name: file.read_text() for file in files if file.is_file()}


def test_the_bundle_carries_the_reports(finished_run: Path) -> None:
    assert export(finished_run) == {name: name for name in REPORT_FILES}


def test_an_unwanted_sheet_is_not_in_the_bundle_and_leaves_it(finished_run: Path) -> None:
    rest = {name: name for name in REPORT_FILES if name != "errors.png"}
    assert export(finished_run, "--no-error-sheet") == rest
    assert export(finished_run) == {name: name for name in REPORT_FILES}
    assert export(finished_run, "--no-error-sheet") == rest
    (finished_run / "errors.csv").unlink()  # what the run no longer has leaves the bundle, too
    assert "errors.csv" not in export(finished_run)


def test_the_bundle_carries_the_report_on_the_data(fitted_run: Path, tmp_path: Path) -> None:
    """It is of this run even if that is not finished: a run writes it before its first step."""
    folder = shutil.copytree(fitted_run, tmp_path / "interrupted")
    (folder / "data.json").write_text("what was found")
    export(folder)
    assert (folder / "bundle" / "data.json").read_text() == "what was found"
    (folder / "data.json").unlink()
    export(folder)
    assert not (folder / "bundle" / "data.json").exists()


def test_a_run_without_a_result_gives_no_reports(fitted_run: Path, tmp_path: Path) -> None:
    """They are of a former run in that folder."""
    folder = shutil.copytree(fitted_run, tmp_path / "interrupted")
    (folder / "errors.csv").write_text("of a former run")
    assert export(folder) == {}


@pytest.mark.parametrize("kept", [True, False])
def test_an_engine_build_adds_no_sheet_that_was_left_out(
    finished_run: Path, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(finished_run, *([] if kept else ["--no-error-sheet"]))
    monkeypatch.setattr(build_trt, "_try_flavor", lambda name: (None, "no TensorRT here"))
    monkeypatch.setattr(pipeline, "_milliseconds", lambda *_: 1.0)
    with pytest.raises(Exception, match="no TensorRT here"):
        build_trt.main([str(finished_run)])
    assert (finished_run / "bundle" / "model.fp16.onnx").is_file()
    assert (finished_run / "bundle" / "errors.png").exists() is kept
