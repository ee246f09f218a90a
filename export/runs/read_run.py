"""Reads a trained run once: its student, its card, its test images, and images to calibrate with."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from export.graphs.to_int8 import CalibrationData, draw_rows
from export.runs.card_of_run import card_of
from runtime.model.card import Card
from runtime.model.figures import softmax
from runtime.model.holdout import Labelled
from runtime.model.preprocess import preprocess
from training.data import Dataset
from training.evaluation.logits import logits_of
from training.records.checkpoint import load_run_dataset, load_trained


@dataclass(frozen=True)
class RunToExport:
    """What an export needs of a run.

    Attributes:
        student: float32, in evaluation mode, on the CPU; normalised images float32 (N, 3, S, S) to
            logits (N, K).
        card: the card of the run, still without files and engines.
        test: the whole test split, with the student's probabilities by torch.
        dataset: the data set that it was trained on.
    """

    student: nn.Module
    card: Card
    test: Labelled
    dataset: Dataset

    def calibration_data(self) -> CalibrationData:
        """Training images, cropped and resized as the runtime does it."""
        dataset = self.dataset
        observed, others = draw_rows(len(dataset.train_labels))
        images, validation = (
            np.stack([preprocess(image, dataset.input) for image in dataset.train_images[rows]])
            for rows in (observed, others)
        )
        return CalibrationData(images, validation, dataset.train_labels[others])


def read_run(folder: Path, say: Callable[[str], None]) -> RunToExport:
    """Rebuilds the student of the run in `folder` and evaluates it on the test split.

    `say` is told what is being done.

    Raises:
        UserError: the checkpoint, `result.json` or the data set does not allow it.
    """
    trained = load_trained(folder)
    dataset = load_run_dataset(trained)
    say(f"evaluating the student on {len(dataset.test_labels):,} test images")
    logits = logits_of(
        trained.student, dataset.test_images, trained.plan.input, device=torch.device("cpu")
    )
    reference = softmax(logits, temperature=trained.temperature).astype(np.float32)
    return RunToExport(
        student=trained.student,
        card=card_of(trained, dataset, logits),
        test=Labelled(dataset.test_images, dataset.test_labels, reference),
        dataset=dataset,
    )
