"""The end of a run: calibration, figures on the test split, `result.json`, plots."""

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from runtime.files import write_atomic
from runtime.locate import RESULT
from training.calibration import fit_temperature
from training.cost import Cost, cost_of
from training.device import device_name
from training.evaluation import (
    confusion_matrix,
    expected_calibration_error,
    softmax,
    top_k,
)
from training.plan import Plan
from training.plots import CONFUSION, CURVES, plot_confusion, plot_curves
from training.step import precision_of
from training.students import build_student
from training.trainer import Save, Trainer

_PACKAGES = ("torch", "torchvision", "numpy", "msgspec")


def finish_run(trainer: Trainer, folder: Path, save: Save) -> dict[str, Any] | None:
    """Calibrates, evaluates and writes the run's last files; returns the content of result.json.

    result.json comes last: a folder that has it is a finished run. Processes other than the main
    one only take part in the checkpoint and get None.
    """
    if not trainer.group.is_main:
        trainer.require_finite_answers(None)
        trainer.checkpoint(finished=True)
        return None
    dataset, plan = trainer.dataset, trainer.plan
    validation_labels = dataset.train_labels[trainer.validation_rows]
    logits, labels = trainer.test_logits(), dataset.test_labels
    validation_logits = trainer.validation_logits() if len(validation_labels) else logits[:0]
    trainer.require_finite_answers(np.concatenate([logits, validation_logits]))
    temperature, validation_top1 = 1.0, None
    if len(validation_labels):
        temperature = fit_temperature(validation_logits, validation_labels) or 1.0
        validation_top1 = top_k(validation_logits, validation_labels, 1)
    save(trainer.checkpoint(temperature=temperature, finished=True))
    cost = _cost(plan)
    result = {
        "arch": plan.arch,
        "width": plan.width,
        "image_size": plan.input.size,
        "data": plan.data,
        "data_digest": plan.data_digest,
        "terms": plan.terms,
        "seed": plan.seed,
        "epochs": plan.recipe.epochs,
        "top1": top_k(logits, labels, 1),
        "top5": top_k(logits, labels, 5),
        "ece": expected_calibration_error(softmax(logits, temperature=temperature), labels),
        "ece_uncalibrated": expected_calibration_error(softmax(logits), labels),
        "temperature": temperature,
        "validation_top1": validation_top1,
        "params": cost.params,
        "macs": cost.macs,
        "auxiliary_params": trainer.learner.auxiliary_params,
        "train_images": len(trainer.train_rows),
        "validation_images": len(validation_labels),
        "test_images": len(labels),
        "seconds": trainer.seconds,
        "images_per_second": trainer.history[-1]["images_per_second"],
        "device": device_name(trainer.device),
        "precision": precision_of(trainer.device),
        "processes": plan.processes,
        "weights": plan.weights,
        "versions": versions(),
        "recipe": msgspec.to_builtins(plan.recipe),
    }
    title = f"{plan.arch} on {plan.data}, {plan.terms}, seed {plan.seed}"
    plot_curves(folder / CURVES, trainer.history, terms=trainer.learner.log.names, title=title)
    counts = confusion_matrix(logits, labels)
    plot_confusion(folder / CONFUSION, counts, dataset.class_names, title=title)
    content = msgspec.json.format(msgspec.json.encode(result), indent=2)
    write_atomic(folder / RESULT, content + b"\n")
    return result


def _cost(plan: Plan) -> Cost:
    with torch.device("meta"):  # shapes are all that counting needs
        student = build_student(
            plan.arch, num_classes=plan.num_classes, image_size=plan.input.size, width=plan.width
        )
    return cost_of(student, image_size=plan.input.size)


def versions() -> dict[str, str]:
    """Python's version and those of the packages that decide a result."""
    found = {name: metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **found}


def summary(result: dict[str, Any]) -> str:
    """The final table, for people."""
    rows = [
        ("student", f"{result['arch']} x{result['width']:g}, {result['image_size']} px"),
        ("data", f"{result['data']}: {result['train_images']} train, {result['test_images']} test"),
        ("terms", result["terms"]),
        ("top-1", f"{result['top1']:.2%}"),
        ("top-5", f"{result['top5']:.2%}"),
        ("ECE", f"{result['ece']:.2%} (before calibration {result['ece_uncalibrated']:.2%})"),
        ("temperature", _calibration_words(result)),
        ("parameters", f"{result['params']:,}"),
        ("MACs", f"{result['macs']:,} an image"),
        ("time", f"{result['seconds']:.0f} s on {result['device']}"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


def _calibration_words(result: dict[str, Any]) -> str:
    count = result["validation_images"]
    if not count:
        fraction = result["recipe"]["validation_fraction"]
        return f"1 (validation_fraction {fraction:g} holds out no image: not calibrated)"
    if result["temperature"] == 1.0:
        return f"1 (none was best for the {count} training images held out: not calibrated)"
    return f"{result['temperature']:.3f}, fitted on {count} training images held out for it"
