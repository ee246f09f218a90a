"""The end of a run: calibration, figures on the test split, what fails, `result.json`, plots."""

from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from runtime.base.files import write_atomic
from runtime.evaluation.class_report import CLASSES_FILE, SHEET_FILE, Answered, write_class_report
from runtime.evaluation.error_sheet import write_error_sheet
from runtime.model.figures import softmax, top_k
from runtime.model.locate import RESULT
from training.config.plan import Plan
from training.data import Dataset
from training.data.source import row_paths
from training.engine.device import device_name, versions
from training.engine.trainer import Save, Trainer
from training.evaluation.calibration import calibrate, likeliest_temperature
from training.evaluation.confidence import (
    image_record,
    negative_log_likelihood,
    quality_figures,
)
from training.networks.students import Cost, cost_of, student_of
from training.records.kept_apart import write_kept_apart
from training.records.plots import CONFUSION, CURVES, plot_confusion, plot_curves
from training.records.run_folder import IMAGES


class _Calibration(NamedTuple):
    """The temperature, why it is 1, and figures of the images that it was found with."""

    temperature: float = 1.0
    not_calibrated: str | None = None
    validation_top1: float | None = None  # None: no image was held out
    validation_nll: float | None = None  # at the temperature at which it is lowest


def finish_run(
    trainer: Trainer, folder: Path, save: Save, *, command: str, error_sheet: bool = True
) -> dict[str, Any] | None:
    """Deploys the chosen student, calibrates, evaluates and writes the run's last files.

    result.json is written last: a folder that has it is a finished run. Processes other than the
    main one only take part in the checkpoint.

    Args:
        trainer: after its last epoch.
        folder: of the run.
        save: writes a checkpoint.
        command: that result.json states, without local paths.
        error_sheet: whether `errors.png` shows the worst mistakes.

    Returns:
        The content of result.json; None in processes other than the main one.

    Raises:
        DivergedError: in all processes, if an answer is not finite.
    """
    trainer.deploy_chosen()
    if not trainer.group.is_main:
        trainer.require_finite_answers()
        trainer.checkpoint(finished=True)
        return None
    logits, validation_logits = trainer.test_logits(), trainer.validation_logits()
    trainer.require_finite_answers(logits, validation_logits)
    calibration = _calibrate(trainer, validation_logits)
    labels = trainer.dataset.test_labels
    save(trainer.checkpoint(temperature=calibration.temperature, finished=True))
    answered = _answered(trainer.dataset, logits, calibration.temperature)
    result = {
        **_choices(trainer.plan),
        **_chosen_epoch(trainer),
        **_figures(logits, labels, calibration),
        **_last_weights(trainer),
        **answered.class_means(),
        **_rare_recall(trainer.plan, answered),
        **_size(trainer),
        **_circumstances(trainer),
        "command": command,
    }
    record = image_record(logits, labels, temperature=calibration.temperature)
    write_atomic(folder / IMAGES, msgspec.json.encode(record))
    _plot(trainer, answered, folder)
    _report(trainer, answered, folder, error_sheet=error_sheet)
    write_kept_apart(
        folder,
        trainer.dataset,
        trainer.validation_rows,
        trainer.choosing,
        validation_logits,
        temperature=calibration.temperature,
    )
    content = msgspec.json.format(msgspec.json.encode(result), indent=2)
    write_atomic(folder / RESULT, content + b"\n")
    return result


def _answered(dataset: Dataset, logits: NDArray[np.float32], temperature: float) -> Answered:
    """The test images with the student's calibrated probabilities."""
    return Answered(
        dataset.class_names,
        dataset.test_labels,
        softmax(logits, temperature=temperature),
        dataset.test_paths or row_paths("", range(len(logits))),
    )


def _rare_recall(plan: Plan, answered: Answered) -> dict[str, float]:
    """The mean recall of the classes that `class_imbalance` has thinned, those of odd numbers."""
    if plan.recipe.class_imbalance == 1:
        return {}
    return {"rare_recall": float(answered.figures.recall[1::2].mean())}


def _report(trainer: Trainer, answered: Answered, folder: Path, *, error_sheet: bool) -> None:
    """Writes which classes and which pictures fail."""
    dataset, classes = trainer.dataset, len(answered.class_names)
    train, validation = (
        np.bincount(trainer.true_labels[rows], minlength=classes)
        for rows in (trainer.train_rows, trainer.validation_rows)
    )
    write_class_report(folder, answered, train=train, validation=validation)
    if error_sheet:
        images = dataset.test_images
        write_error_sheet(folder / SHEET_FILE, answered, lambda row: images[row])
    else:
        (folder / SHEET_FILE).unlink(missing_ok=True)


def _calibrate(trainer: Trainer, logits: NDArray[np.float32] | None) -> _Calibration:
    if logits is None:
        return _Calibration(not_calibrated="no image was held out")
    rows, groups = trainer.validation_rows[trainer.choosing], trainer.dataset.train_groups
    labels, logits = trainer.dataset.train_labels[rows], logits[trainer.choosing]
    best = likeliest_temperature(logits, labels)
    loss = negative_log_likelihood(logits, labels, temperature=best)
    found = calibrate(logits, labels, None if groups is None else groups[rows])
    return _Calibration(*found, top_k(logits, labels, 1), loss)


def _choices(plan: Plan) -> dict[str, Any]:
    """What was asked for, apart from the recipe."""
    return {
        "arch": plan.arch,
        "width": plan.width,
        "image_size": plan.input.size,
        "data": plan.data,
        "data_digest": plan.data_digest,
        "drop_leaks": plan.drop_leaks,
        "content_digest": plan.content_digest,
        "terms": plan.terms,
        "seed": plan.seed,
        "epochs": plan.recipe.epochs,
    }


def _chosen_epoch(trainer: Trainer) -> dict[str, Any]:
    """The epoch whose student is deployed, by what it was chosen, and how many were trained."""
    trained, selection = len(trainer.history), trainer.selection
    return {
        "best_epoch": selection.deployed_epoch(trained),
        "selected_by": "validation" if selection.by_validation else "last",
        "epochs_trained": trained,
    }


def _figures(
    logits: NDArray[np.float32], labels: NDArray[np.int64], calibration: _Calibration
) -> dict[str, Any]:
    """How good the student is on the test split, by its logits (M, K)."""
    figures = quality_figures(logits, labels, temperature=calibration.temperature)
    return {**figures, **calibration._asdict()}


def _last_weights(trainer: Trainer) -> dict[str, Any]:
    """Where averaged weights are deployed, the figures of the last weights beside theirs."""
    if trainer.learner.average is None:
        return {}
    calibration = _calibrate(trainer, trainer.validation_logits(averaged=False))
    logits = trainer.test_logits(averaged=False)
    return {"last_weights": _figures(logits, trainer.dataset.test_labels, calibration)}


def _size(trainer: Trainer) -> dict[str, Any]:
    """What the student costs at deployment, and what only its training had."""
    cost = _cost(trainer.plan)
    return {
        "params": cost.params,
        "macs": cost.macs,
        "auxiliary_params": trainer.learner.auxiliary_params,
    }


def _circumstances(trainer: Trainer) -> dict[str, Any]:
    """On how many images and on what it was trained, for how long, and with which recipe."""
    plan = trainer.plan
    return {
        "train_images": len(trainer.train_rows),
        "validation_images": len(trainer.validation_rows),
        "threshold_images": int((~trainer.choosing).sum()),
        "test_images": len(trainer.dataset.test_labels),
        "seconds": trainer.seconds,
        "images_per_second": trainer.history[-1]["images_per_second"],
        "device": device_name(trainer.device),
        "precision": trainer.learner.execution.precision,
        "compiled": trainer.learner.execution.compiled,
        "processes": plan.processes,
        "weights": plan.weights,
        "teacher": plan.teacher or None,
        "versions": versions(),
        "recipe": msgspec.to_builtins(plan.recipe),
    }


def _plot(trainer: Trainer, answered: Answered, folder: Path) -> None:
    plan = trainer.plan
    title = f"{plan.arch} on {plan.data}, {plan.terms}, seed {plan.seed}"
    plot_curves(folder / CURVES, trainer.history, terms=trainer.learner.log.names, title=title)
    plot_confusion(folder / CONFUSION, answered.confusion, answered.class_names, title=title)


def _cost(plan: Plan) -> Cost:
    with torch.device("meta"):  # shapes are all that counting needs
        student = student_of(plan)
    return cost_of(student, image_size=plan.input.size)


def summary(result: dict[str, Any]) -> str:
    """The final table, for people."""
    rows = [
        ("student", f"{result['arch']} x{result['width']:g}, {result['image_size']} px"),
        ("data", f"{result['data']}: {result['train_images']} train, {result['test_images']} test"),
        ("terms", result["terms"]),
        *([("epoch", _epoch_words(result))] if "best_epoch" in result else []),
        ("top-1", f"{result['top1']:.2%}"),
        ("top-5", f"{result['top5']:.2%}"),
        *([("worst class", _worst_words(result))] if "worst_class" in result else []),
        ("ECE", f"{result['ece']:.2%} (before calibration {result['ece_uncalibrated']:.2%})"),
        ("temperature", _calibration_words(result)),
        ("parameters", f"{result['params']:,}"),
        ("MACs", f"{result['macs']:,} an image"),
        ("time", f"{result['seconds']:.0f} s on {result['device']}"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


def _epoch_words(result: dict[str, Any]) -> str:
    """Which epoch's student it is, and where training stopped early, that it did."""
    trained, asked = result["epochs_trained"], result["epochs"]
    words = f"{result['best_epoch']} of {asked}"
    if result["selected_by"] == "validation":
        judged = result["validation_images"] - result.get("threshold_images", 0)
        words += f", the best on {judged} validation images"
    if trained < asked:
        words += f"; stopped after {trained}, patience {result['recipe']['patience']}"
    return words


def _worst_words(result: dict[str, Any]) -> str:
    worst = result["worst_class"]
    return f"{worst['name']}, {worst['recall']:.2%} found (all classes are in {CLASSES_FILE})"


def _calibration_words(result: dict[str, Any]) -> str:
    count = result["validation_images"] - result.get("threshold_images", 0)
    if not count:
        fraction = result["recipe"]["validation_fraction"]
        return f"1 (validation_fraction {fraction:g} holds out no image: not calibrated)"
    if result["temperature"] == 1.0:
        why = result.get("not_calibrated") or f"none was best for {count} images held out"
        return f"1 (not calibrated: {why})"
    return f"{result['temperature']:.3f}, found with {count} images held out for it"
