"""A model on new labelled images: the figures, the classes and the pictures that fail."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import ImageError, UserError
from runtime.base.files import printable_path
from runtime.base.parallel import in_chunks
from runtime.evaluation.class_report import (
    SHEET_FILE,
    Answered,
    Confused,
    write_class_report,
)
from runtime.evaluation.error_sheet import write_error_sheet
from runtime.evaluation.labelled_folder import LabelledFolder
from runtime.evaluation.threshold import accepted_figures
from runtime.model.card import Threshold

_MAX_BROKEN_SHARE = 0.01
_MAX_PAIRS = 5
_BROKEN = "broken"

Prepare = Callable[[Path], NDArray[np.uint8]]
Answer = Callable[[NDArray[np.uint8]], NDArray[np.floating]]


class ClassRow(msgspec.Struct, frozen=True, kw_only=True):
    """One class: its images and figures."""

    name: str
    images: int
    precision: float
    recall: float
    f1: float


class ErrorRow(msgspec.Struct, frozen=True, kw_only=True):
    """An image that is answered wrongly."""

    path: str
    true: str
    predicted: str
    probability: float
    true_probability: float


class WorstClass(msgspec.Struct, frozen=True, kw_only=True):
    """The class that is found least."""

    name: str
    recall: float


class Evaluated(msgspec.Struct, frozen=True, kw_only=True):
    """How a model does on labelled images.

    Attributes:
        model: the file that answered.
        backend: what ran it.
        precision: of the file; null if it is not known.
        data: the folder of the images.
        images: how many were answered.
        top1: the share that is answered rightly.
        top5: the share whose class is among the five most probable ones.
        ece: the expected calibration error.
        balanced_accuracy: the mean recall of the classes that have images.
        macro_f1: the mean F1.
        worst_class: the class that is found least.
        classes: all classes of the model.
        confused: the pairs of classes that are confused most.
        errors: the images that are answered wrongly, the most confident mistake first.
        threshold: below which the file's answers are not accepted; null if it has none.
        accepted_share: the share of the images whose answers are accepted; null without threshold.
        accepted_error: the share of wrong answers among those; null if there are none.
        left_out: how many files and folders were not used, for each reason.
    """

    model: str
    backend: str
    precision: str | None
    data: str
    images: int
    top1: float
    top5: float
    ece: float
    balanced_accuracy: float
    macro_f1: float
    worst_class: WorstClass
    classes: tuple[ClassRow, ...]
    confused: tuple[Confused, ...]
    errors: tuple[ErrorRow, ...]
    threshold: Threshold | None = None
    accepted_share: float | None = None
    accepted_error: float | None = None
    left_out: dict[str, int]


def answer_folder(
    data: LabelledFolder,
    class_names: tuple[str, ...],
    prepare: Prepare,
    answer: Answer,
    *,
    chunk: int,
    broken: Callable[[str], None],
) -> tuple[Answered, LabelledFolder]:
    """Answers all images, on all cores. Shows how far it is, if stderr is a terminal.

    Args:
        data: the images and labels.
        class_names: of the model.
        prepare: gives the network's input of a file, uint8 (size, size, 3).
        answer: gives the probabilities (n, K) of up to `chunk` inputs. Threads call it.
        chunk: how many images are answered at once.
        broken: gets a line for each image that cannot be decoded.

    Returns:
        The answers, and the images that they are of: without the broken ones.

    Raises:
        UserError: if more than 1 % of the images are broken (but one may always be).
    """

    def work(files: list[Path]) -> list[NDArray[np.floating] | ImageError]:
        found: list[NDArray[np.floating] | ImageError] = []
        inputs = []
        for file in files:
            try:
                inputs.append(prepare(file))
                found.append(np.empty(0))
            except ImageError as error:
                found.append(error)
        rows = iter(answer(np.stack(inputs)) if inputs else ())
        return [item if isinstance(item, ImageError) else next(rows) for item in found]

    answers = list(_shown(in_chunks(work, data.images, chunk=chunk), len(data.images)))
    errors = [item for item in answers if isinstance(item, ImageError)]
    for error in errors:
        broken(f"skipped {error}")
    if len(errors) > max(1, int(_MAX_BROKEN_SHARE * len(answers))) or len(errors) == len(answers):
        raise UserError(
            f"{len(errors)} of {len(answers)} images are broken; mend or remove them: {errors[0]}"
        )
    kept = [row for row, item in enumerate(answers) if not isinstance(item, ImageError)]
    whole = LabelledFolder(
        [data.images[row] for row in kept],
        data.labels[kept],
        [data.paths[row] for row in kept],
        {**data.left_out, **({_BROKEN: len(errors)} if errors else {})},
    )
    probabilities = np.stack([item for item in answers if not isinstance(item, ImageError)])
    return Answered(class_names, whole.labels, probabilities, whole.paths), whole


def evaluated(
    answered: Answered,
    data: LabelledFolder,
    *,
    model: str,
    backend: str,
    precision: str | None,
    root: Path,
    threshold: Threshold | None = None,
) -> Evaluated:
    """All figures of the answers, and what they are of."""
    names, figures = answered.class_names, answered.figures
    rows = zip(
        names,
        figures.images.tolist(),
        figures.precision.tolist(),
        figures.recall.tolist(),
        figures.f1.tolist(),
        strict=True,
    )
    return msgspec.convert(
        {
            "model": model,
            "backend": backend,
            "precision": precision,
            "data": printable_path(str(root)),
            **answered.summary(),
            "classes": [
                ClassRow(name=name, images=images, precision=precision, recall=recall, f1=f1)
                for name, images, precision, recall, f1 in rows
            ],
            "confused": answered.most_confused(_MAX_PAIRS),
            "errors": [
                ErrorRow(
                    path=printable_path(answered.paths[mistake.row]),
                    true=names[mistake.true],
                    predicted=names[mistake.predicted],
                    probability=mistake.probability,
                    true_probability=mistake.true_probability,
                )
                for mistake in answered.mistakes()
            ],
            **_accepted(answered, threshold),
            "left_out": data.left_out,
        },
        Evaluated,
    )


def _accepted(answered: Answered, threshold: Threshold | None) -> dict[str, object]:
    """How many answers the threshold accepts, and how many of them are wrong."""
    if threshold is None:
        return {}
    share, error = accepted_figures(answered.probabilities, answered.labels, threshold)
    return {"threshold": threshold, "accepted_share": share, "accepted_error": error}


def write_evaluation(
    folder: Path, answered: Answered, data: LabelledFolder, prepare: Prepare, *, sheet: bool
) -> None:
    """Writes the files that say what fails to `folder`, with `errors.png` if `sheet` is set."""
    write_class_report(folder, answered)
    if sheet:
        write_error_sheet(folder / SHEET_FILE, answered, lambda row: prepare(data.images[row]))
    else:
        (folder / SHEET_FILE).unlink(missing_ok=True)


def lines_of(found: Evaluated) -> Iterator[str]:
    """The figures for people."""
    yield (
        f"{found.images:,} images: top-1 {found.top1:.2%}, top-5 {found.top5:.2%}, "
        f"balanced accuracy {found.balanced_accuracy:.2%}, macro F1 {found.macro_f1:.2%}, "
        f"ECE {found.ece:.2%}"
    )
    if found.threshold is not None and found.accepted_share is not None:
        wrong = (
            "" if found.accepted_error is None else f", {found.accepted_error:.2%} of them wrong"
        )
        yield (
            f"accepted, at {found.threshold.probability:.1%} or more: {found.accepted_share:.2%}"
            f"{wrong} (promised: at most {found.threshold.max_error:.3g})"
        )
    yield ""
    width = max(len("class"), *(len(row.name) for row in found.classes))
    yield f"{'class':<{width}}  images  precision   recall       F1"
    for row in found.classes:
        figures = f"{row.precision:>9.2%}  {row.recall:>7.2%}  {row.f1:>7.2%}"
        yield f"{row.name:<{width}}  {row.images:>6}  {figures if row.images else '-':>27}"
    for pair in found.confused:
        yield pair.words


def _shown(
    answers: Iterator[NDArray[np.floating] | ImageError], total: int
) -> Iterator[NDArray[np.floating] | ImageError]:
    """Passes `answers` on and writes their number to a terminal."""
    show = sys.stderr.isatty()
    for done, item in enumerate(answers, start=1):
        if show and (done % max(1, total // 100) == 0 or done == total):
            end = "\n" if done == total else ""
            sys.stderr.write(f"\r{done:,} of {total:,} images{end}")
        yield item
