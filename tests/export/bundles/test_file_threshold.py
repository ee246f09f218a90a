"""Exported files have thresholds of their own, found by running them on images kept apart."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export import run
from export.bundles.export_options import ExportOptions
from export.pipeline import export_run
from runtime import open_classifier
from runtime.base.errors import UserError
from runtime.evaluation.threshold import fit_threshold, thresholds_to_try
from runtime.model.bundle import read_card
from runtime.model.figures import top_k
from runtime.model.holdout import read_validation, validation_bytes
from training.data import Dataset
from training.data.splits import choosing_images
from training.evaluation.logits import logits_of
from training.records.checkpoint import load_trained, read_checkpoint, save_checkpoint
from training.records.kept_apart import write_kept_apart

HELD_OUT = np.arange(300, 600)


@pytest.fixture(scope="module")
def kept_run(fitted_run: Path, patterns: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fitted run as a finished one, with 300 images of which half are kept apart."""
    folder = tmp_path_factory.mktemp("kept") / "quick"
    shutil.copytree(fitted_run, folder)
    trained = load_trained(folder)
    images = np.asarray(patterns.train_images)[HELD_OUT]
    logits = logits_of(trained.student, images, patterns.input, device=torch.device("cpu"))
    choosing = choosing_images(patterns, HELD_OUT)
    write_kept_apart(folder, patterns, HELD_OUT, choosing, logits, temperature=trained.temperature)
    result = {
        "epochs": 1,
        "top5": 1.0,
        "ece": 0.1,
        "params": 1,
        "macs": 1,
        "recipe": {},
        "versions": {},
        "validation_images": 300,
        "threshold_images": 150,
    }
    answers = logits_of(
        trained.student, patterns.test_images, patterns.input, device=torch.device("cpu")
    )
    top1 = top_k(answers, patterns.test_labels, 1)
    (folder / "result.json").write_text(json.dumps(result | {"top1": top1}))
    checkpoint = read_checkpoint(folder / "checkpoint.pt")
    save_checkpoint(folder / "checkpoint.pt", replace(checkpoint, finished=True))
    return folder


def test_one_image_of_each_group_is_kept(patterns: Dataset, tmp_path: Path) -> None:
    grouped = replace(patterns, train_groups=np.arange(len(patterns.train_labels)) // 3)
    choosing = choosing_images(grouped, HELD_OUT)
    logits = np.zeros((len(HELD_OUT), 4), np.float32)
    write_kept_apart(tmp_path, grouped, HELD_OUT, choosing, logits, temperature=1.0)
    rows = np.load(tmp_path / "validation.npz")["rows"]
    assert np.array_equal(rows // 3, np.unique(HELD_OUT[~choosing] // 3))


@pytest.fixture(scope="module")
def kept_bundle(kept_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("kept") / "bundle"
    options = ExportOptions(precisions=("fp32", "int8"), opset=17, calibration="minmax", out=bundle)
    export_run(kept_run, options, lambda _text: None)
    return bundle


def test_each_file_has_the_threshold_of_its_own_probabilities(kept_bundle: Path) -> None:
    kept = read_validation(kept_bundle)
    assert kept is not None
    tried = thresholds_to_try(kept.choosing_confidence, kept.choosing_right, 0.05)
    card = read_card(kept_bundle)
    assert card.max_error == 0.05
    for file in card.files:
        with open_classifier(kept_bundle, precision=file.precision) as classifier:
            probabilities = classifier.probabilities(kept.images)
        expected = fit_threshold(probabilities, kept.labels, tried, max_error=0.05)
        assert file.threshold == expected
        assert (file.threshold.images, file.no_threshold) == (150, None)
        assert file.threshold.coverage > 0.9
    coverages = {file.precision: file.threshold.coverage for file in card.files}
    assert set(coverages) == {"fp32", "int8", "int8-cpu"}


def test_the_images_are_no_test_images_and_none_that_int8_was_made_with(
    kept_run: Path, kept_bundle: Path, patterns: Dataset
) -> None:
    kept = read_validation(kept_bundle)
    assert kept is not None
    assert set(kept.rows.tolist()) < set(HELD_OUT.tolist())
    assert (kept_bundle / "validation.npz").read_bytes() == (
        kept_run / "validation.npz"
    ).read_bytes()
    tested = {image.tobytes() for image in np.asarray(patterns.test_images)}
    assert not tested & {image.tobytes() for image in kept.images}
    quantization = read_card(kept_bundle).file("int8").quantization
    assert quantization.calibration == "minmax of 225 training images"  # half of the other 450


def test_a_run_that_kept_nothing_apart_says_so(
    fitted_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    assert run.main([str(fitted_run), "--opset", "17", "--out", str(bundle)]) == 0
    reason = "the run was not finished, so no images were kept apart for it"
    assert f"no threshold for model.onnx: {reason}\n" in capsys.readouterr().out
    (file,) = read_card(bundle).files
    assert (file.threshold, file.no_threshold) == (None, reason)
    assert not (bundle / "validation.npz").exists()
    with pytest.raises(UserError, match=r"max_error 0.1 cannot be promised: the run was not finis"):
        run.main([str(fitted_run), "--opset", "17", "--out", str(bundle), "--max-error", "0.1"])


@pytest.mark.parametrize("text", ["0", "1", "1.5", "nan", "-0.1", "inf"])
def test_an_impossible_share_of_errors_is_refused(fitted_run: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"cannot be promised; expected a share of wrong answers"):
        run.main([str(fitted_run), "--max-error", text])


def test_a_share_that_so_few_images_cannot_prove_is_refused(kept_run: Path, tmp_path: Path) -> None:
    """0.1^(1/150) is 0.98477."""
    with pytest.raises(UserError, match=r"with the 150 images .* they allow 0.0152 or more"):
        run.main([str(kept_run), "--out", str(tmp_path / "b"), "--max-error", "0.015"])
    assert not (tmp_path / "b").exists()


def test_an_asked_share_that_no_file_reaches_ends_with_an_error_and_keeps_the_files(
    kept_run: Path, tmp_path: Path
) -> None:
    folder, bundle = tmp_path / kept_run.name, tmp_path / "bundle"
    shutil.copytree(kept_run, folder)
    kept = read_validation(folder)
    assert kept is not None
    others = (kept.labels + 1) % (kept.labels.max() + 1)  # now every answer is wrong
    wrong = replace(kept, labels=others)
    (folder / "validation.npz").write_bytes(validation_bytes(wrong))
    words = [str(folder), "--opset", "17", "--out", str(bundle)]
    with pytest.raises(UserError, match=r"max_error 0.1: no file can promise it, though .* wrong"):
        run.main([*words, "--max-error", "0.1"])
    (file,) = read_card(bundle).files
    assert file.threshold is None
    assert "do not prove that at most 0.1 of the accepted answers are wrong" in file.no_threshold
    assert run.main(words) == 0  # where no share was asked for, a line says so


def test_private_pictures_are_left_out_and_stay_out(kept_run: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    words = [str(kept_run), "--opset", "17", "--out", str(bundle), "--max-error", "0.2"]
    assert run.main(words) == 0
    assert (bundle / "validation.npz").exists()
    assert run.main([*words, "--no-validation-images"]) == 0
    assert not (bundle / "validation.npz").exists()
    (file,) = read_card(bundle).files
    assert file.threshold.max_error == read_card(bundle).max_error == 0.2
    assert file.threshold.images == 150
