"""What an export takes from a trained run, which is read once. Only this module imports `training`.

It takes the student, the card, the test images with torch's answers, and images to calibrate with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from export.graphs.to_int8 import CalibrationData, draw_rows
from runtime.base.errors import UserError
from runtime.model.card import Card, ClassRecall, DataSummary, Provenance, Quality
from runtime.model.figures import (
    class_figures,
    confusion_matrix,
    expected_calibration_error,
    softmax,
    top_k,
)
from runtime.model.holdout import Labelled
from runtime.model.locate import RESULT
from runtime.model.preprocess import preprocess
from training.config.method_registry import BASE
from training.config.plan import Plan
from training.data import Dataset
from training.data.splits import rows_of_run
from training.evaluation.logits import logits_of
from training.networks.students import cost_of
from training.records.checkpoint import TrainedRun, load_run_dataset, load_trained

_RESULT_FIELDS = ("epochs", "top1", "top5", "ece", "params", "macs", "recipe", "versions")


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
        observed, others = self._calibration_rows()
        images, validation = (
            np.stack([preprocess(image, dataset.input) for image in dataset.train_images[rows]])
            for rows in (observed, others)
        )
        return CalibrationData(images, validation, dataset.train_labels[others])

    def _calibration_rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Training images to observe, and others to choose by: the user's own, if there are any."""
        dataset, count = self.dataset, len(self.dataset.train_labels)
        if not dataset.validation_images:
            return draw_rows(count)
        trained = count - dataset.validation_images
        observed, _ = draw_rows(trained)
        chosen = np.concatenate(draw_rows(dataset.validation_images))
        return observed, trained + np.sort(chosen)


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
        card=_card_of(trained, dataset, logits),
        test=Labelled(dataset.test_images, dataset.test_labels, reference),
        dataset=dataset,
    )


def _card_of(trained: TrainedRun, dataset: Dataset, logits: NDArray[np.float32]) -> Card:
    """The card of a run, still without files and engines.

    `logits` are those of the whole test split of `dataset`, float32 (N, K).

    Raises:
        UserError: `result.json` is not that of a finished run.
    """
    labels = dataset.test_labels
    plan, result = trained.plan, trained.result or _measured(trained, logits, labels)
    provenance = {
        "run": trained.folder.resolve().name,
        "data": plan.data,
        "terms": _methods(plan),
        "seed": plan.seed,
        "checkpoint_sha256": trained.checkpoint_sha256,
        "history": msgspec.to_builtins(trained.history),
    }
    try:
        provenance |= {name: result[name] for name in _RESULT_FIELDS}
        measured = msgspec.convert(provenance, Provenance)
    except (KeyError, msgspec.ValidationError) as error:
        raise UserError(
            f"{trained.folder / RESULT} is not that of a finished run ({error}); "
            "delete it, and `python training/run.py ... --resume` writes it again"
        ) from error
    return Card(
        arch=plan.arch,
        class_names=plan.class_names,
        input=plan.input,
        temperature=trained.temperature,
        provenance=measured,
        data=_data_summary(plan, dataset),
        quality=_quality(plan.class_names, logits, labels),
    )


def _methods(plan: Plan) -> list[str]:
    """The names of the methods that trained the run; cross-entropy is named only if it is alone."""
    return [name for name in plan.methods if name != BASE] or [BASE]


def _data_summary(plan: Plan, dataset: Dataset) -> DataSummary:
    trained, calibrated = rows_of_run(dataset, plan.recipe)
    return DataSummary(
        train_images=len(trained),
        validation_images=len(calibrated),
        test_images=len(dataset.test_labels),
        digest=plan.data_digest or None,
    )


def _quality(
    class_names: tuple[str, ...], logits: NDArray[np.float32], labels: NDArray[np.int64]
) -> Quality:
    figures = class_figures(confusion_matrix(logits, labels))
    worst = int(np.where(figures.images > 0, figures.recall, np.inf).argmin())
    return Quality(
        balanced_accuracy=figures.balanced_accuracy,
        macro_f1=figures.macro_f1,
        worst_class=ClassRecall(
            name=class_names[worst],
            recall=float(figures.recall[worst]),
            images=int(figures.images[worst]),
        ),
    )


def _measured(
    trained: TrainedRun, logits: NDArray[np.float32], labels: NDArray[np.int64]
) -> dict[str, object]:
    """What `result.json` would say of a run that was interrupted before it wrote one."""
    cost = cost_of(trained.student, image_size=trained.plan.input.size)
    probabilities = softmax(logits, temperature=trained.temperature)
    return {
        "epochs": len(trained.history),
        "top1": top_k(logits, labels, 1),
        "top5": top_k(logits, labels, 5),
        "ece": expected_calibration_error(probabilities, labels),
        "params": cost.params,
        "macs": cost.macs,
        "recipe": msgspec.to_builtins(trained.plan.recipe),
        "versions": {},  # the versions that trained it are not known
    }
