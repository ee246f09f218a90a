"""The export of a run that `training/qat.py` has made."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.bundles.export_options import ExportOptions
from export.graphs.to_int8 import Learned
from export.pipeline import export_run
from runtime.model.bundle import read_card
from training.augmentation.augment import channel_statistics, normalise
from training.quantization.quantized_student import QuantizedStudent
from training.records.checkpoint import load_trained, read_checkpoint, save_checkpoint
from training.records.run_data import load_run_dataset


@pytest.fixture
def learned_run(fitted_run: Path, tmp_path: Path) -> Path:
    """The fitted run, with ranges of `int8` in its checkpoint."""
    folder = tmp_path / "learned"
    shutil.copytree(fitted_run, folder)
    trained = load_trained(folder)
    images = np.array(load_run_dataset(trained).train_images[:64])
    learning = QuantizedStudent(trained.student, "int8", arch=trained.plan.arch)
    spec = trained.plan.input
    learning.observe(
        normalise(torch.from_numpy(images), *channel_statistics(spec, torch.device("cpu")))
    )
    learned = {
        "student": trained.student.state_dict(),
        "ranges": {name: list(ends) for name, ends in learning.ranges().items()},
        "epochs": 3,
        "finished": True,
    }
    path = folder / "checkpoint.pt"
    save_checkpoint(path, replace(read_checkpoint(path), learned={"int8": learned}))
    return folder


def test_the_card_names_what_was_learned_and_what_was_calibrated(learned_run: Path) -> None:
    options = ExportOptions(precisions=("int8",), opset=17)
    exported = export_run(learned_run, options, lambda _text: None)
    assert [outcome.complaint for outcome in exported.outcomes] == [None, None]
    files = {file.precision: file.quantization for file in read_card(exported.bundle).files}
    assert files["int8"] is not None
    assert files["int8"].learned_ranges
    assert files["int8"].calibration == "learned in 3 epochs of self-distillation"
    assert files["int8-cpu"] is not None
    assert not files["int8-cpu"].learned_ranges


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (3, "learned in 3 epochs of self-distillation"),
        (2, "learned in 2 of 3 epochs of self-distillation"),
        (0, "observed, and 3 epochs of self-distillation were no nearer"),
    ],
)
def test_the_card_says_which_epoch_was_kept(chosen: int, words: str) -> None:
    assert Learned({}, epochs=3, chosen=chosen).words == words


def test_a_calibration_that_is_asked_for_is_used(learned_run: Path) -> None:
    options = ExportOptions(precisions=("int8",), opset=17, calibration="minmax")
    exported = export_run(learned_run, options, lambda _text: None)
    found = [outcome.record.quantization for outcome in exported.outcomes]
    assert [(each.learned_ranges, each.calibration[:6]) for each in found if each] == [
        (False, "minmax"),
        (False, "minmax"),
    ]
