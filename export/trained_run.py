"""What an export takes from a trained run, which is read once. Only this module reads a run.

It takes the student, the card, the test images with torch's answers, and images to calibrate with.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from export.graphs.to_int8 import CalibrationData, draw_rows
from runtime.base.errors import UserError, VerificationError
from runtime.base.files import printable_path
from runtime.evaluation.class_report import REPORT_FILES
from runtime.model.card import Card, ClassRecall, DataSummary, Provenance, Quality
from runtime.model.figures import (
    class_figures,
    confusion_matrix,
    expected_calibration_error,
    softmax,
    top_k,
)
from runtime.model.holdout import (
    VALIDATION_FILE,
    KeptApart,
    Labelled,
    read_validation,
    validation_bytes,
)
from runtime.model.locate import DATA_REPORT, RESULT
from runtime.model.preprocess import preprocess
from training.config.method_registry import BASE
from training.config.plan import MovedData, Plan
from training.data import Dataset
from training.data.splits import (
    FEWEST_TO_SHARE,
    choosing_images,
    rows_of_run,
    without_kept_apart,
)
from training.evaluation.logits import logits_of
from training.networks.students import cost_of
from training.records.checkpoint import LearnedInt8, TrainedRun, load_trained, rewrite_words
from training.records.run_data import load_run_dataset

# A GPU may have evaluated the student when it was trained, with other rounding than this CPU's. One
# image is always allowed.
_MAX_TOP1_DIFFERENCE = 0.005
_ROUNDING = 1e-9
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
        reports: the run's files on what fails and on its data, by name; None for one that it does
            not have.
        kept: the validation images that thresholds are found with; None if there are none.
        no_threshold: then, why not.
    """

    student: nn.Module
    card: Card
    test: Labelled
    dataset: Dataset
    reports: Mapping[str, bytes | None] = field(default_factory=dict)
    kept: KeptApart | None = None
    no_threshold: str | None = None
    learned: Mapping[str, LearnedInt8] = field(default_factory=dict)

    def calibration_data(self) -> CalibrationData:
        """Training images, cropped and resized as the runtime does it."""
        dataset = self.dataset
        observed, others = self._calibration_rows()
        images, validation = (
            np.stack([preprocess(image, dataset.input) for image in dataset.train_images[rows]])
            for rows in (observed, others)
        )
        own = bool(dataset.validation_images)
        return CalibrationData(images, validation, dataset.train_labels[others], own_images=own)

    def _calibration_rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Training images to observe, and others to choose by: the user's own, if there are any.

        None of them is one that thresholds are found with, or of the group of one.
        """
        dataset, count = self.dataset, len(self.dataset.train_labels)
        if not dataset.validation_images:
            usable = without_kept_apart(np.arange(count), dataset, self.kept)
            observed, others = draw_rows(len(usable))
            return usable[observed], usable[others]
        trained = count - dataset.validation_images
        observed, _ = draw_rows(trained)
        usable = without_kept_apart(np.arange(trained, count), dataset, self.kept)
        chosen = np.concatenate(draw_rows(len(usable)))
        return observed, usable[np.sort(chosen)]


def read_run(
    folder: Path,
    say: Callable[[str], None],
    *,
    data: str | None = None,
    data_root: Path | None = None,
) -> RunToExport:
    """Rebuilds the student of the run in `folder` and evaluates it on the test split.

    `say` is told what is being done. `data` and `data_root` tell where the run's data lie now, if
    they were moved.

    Raises:
        UserError: the checkpoint, `result.json` or the data set does not allow it.
        VerificationError: the student is not as good as `result.json` says.
    """
    trained = load_trained(folder)
    dataset = load_run_dataset(trained, MovedData(data, data_root))
    say(f"evaluating the student on {len(dataset.test_labels):,} test images")
    logits = logits_of(
        trained.student, dataset.test_images, trained.plan.input, device=torch.device("cpu")
    )
    _check_result(trained, top_k(logits, dataset.test_labels, 1), images=len(logits))
    reference = softmax(logits, temperature=trained.temperature).astype(np.float32)
    remedy = "remove it to export without thresholds, or train again"
    kept = read_validation(folder, remedy=remedy) if trained.result else None
    return RunToExport(
        student=trained.student,
        card=_card_of(trained, dataset, logits),
        test=Labelled(dataset.test_images, dataset.test_labels, reference),
        dataset=dataset,
        reports={
            **{name: _report(trained, name) for name in REPORT_FILES},
            DATA_REPORT: _data_report(folder),
            VALIDATION_FILE: None if kept is None else validation_bytes(kept),
        },
        kept=kept,
        no_threshold=_why_none(trained, dataset) if kept is None else None,
        learned=trained.learned,
    )


def _why_none(trained: TrainedRun, dataset: Dataset) -> str:
    """Why a run has no images that thresholds could be found with."""
    result = trained.result
    if not result:
        return "the run was not finished, so no images were kept apart for it"
    if "threshold_images" not in result:
        return "the run is of a version that kept no images apart for it; train again"
    if result["threshold_images"]:
        return f"{VALIDATION_FILE} was removed from the run; train again"
    held_out = result["validation_images"]
    if not held_out:
        return "the run holds out no images (validation_fraction 0)"
    if held_out < FEWEST_TO_SHARE:
        return (
            f"the run holds out {held_out} images, and fewer than {FEWEST_TO_SHARE} cannot serve "
            "both the calibration and a bound; train with more images or a higher "
            "validation_fraction"
        )
    recipe = trained.plan.recipe
    if recipe.thresholds and choosing_images(dataset, rows_of_run(dataset, recipe)[1]).all():
        return (
            f"half of the {held_out} images that are held out would leave fewer than "
            f"{FEWEST_TO_SHARE // 2} for a bound, which counts one of each group and at most 64 "
            "MiB, so all of them have chosen; train with more groups or smaller images"
        )
    return (
        f"all {held_out} images that are held out have chosen the epoch or the temperature, so no "
        "bound is valid"
    )


def _report(trained: TrainedRun, name: str) -> bytes | None:
    """The content of a report. A run that is not finished may have those of a former one."""
    file = trained.folder / name
    return file.read_bytes() if trained.result and file.is_file() else None


def _data_report(folder: Path) -> bytes | None:
    """The content of `data.json`, which a run writes before its first step."""
    file = folder / DATA_REPORT
    return file.read_bytes() if file.is_file() else None


def _check_result(trained: TrainedRun, top1: float, *, images: int) -> None:
    """Compares the top-1 that was just measured with the one in `result.json`, if there is one.

    Raises:
        VerificationError: they differ by more than other arithmetic explains.
    """
    stated = trained.result.get("top1")
    if not isinstance(stated, (int, float)):
        return
    if abs(stated - top1) > max(_MAX_TOP1_DIFFERENCE, 1 / images) + _ROUNDING:
        raise VerificationError(
            f"{trained.folder / RESULT} states a top-1 of {stated:.2%} and the student has "
            f"{top1:.2%} on the {images:,} test images: the data or the checkpoint are not those "
            "of the result; bring those back, or train again"
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
        "run": printable_path(trained.folder.resolve().name),
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
            f"{rewrite_words(learned=bool(trained.learned))}"
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
        content_digest=plan.content_digest or None,
        jpeg_quality=dataset.jpeg_quality,
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
