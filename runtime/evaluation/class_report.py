"""What fails: the classes and the pictures that a model gets wrong, as figures and as CSV files.

Training writes these files into a run's folder, an export takes them into the bundle, and the
commands that evaluate new data write the same ones.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.base.files import printable_path, write_atomic
from runtime.model.figures import (
    ClassFigures,
    class_figures,
    confusion_matrix,
    expected_calibration_error,
    top_k,
)

CLASSES_FILE = "classes.csv"
CONFUSION_FILE = "confusion.csv"
ERRORS_FILE = "errors.csv"
SHEET_FILE = "errors.png"
REPORT_FILES = (CLASSES_FILE, CONFUSION_FILE, ERRORS_FILE, SHEET_FILE)
CLASS_COLUMNS = ("class", "train", "validation", "test", "precision", "recall", "f1")
ERROR_COLUMNS = ("path", "true", "predicted", "probability", "true_probability")
_TOP_5 = 5
_DECIMALS = 6  # of a probability


class Mistake(NamedTuple):
    """An image that is answered wrongly: its row, its classes, and how probable each was held."""

    row: int
    true: int
    predicted: int
    probability: float
    true_probability: float


@dataclass(frozen=True)
class Confused:
    """How many of the `images` of the class `true` are taken for the class `predicted`."""

    true: str
    predicted: str
    count: int
    images: int

    @property
    def words(self) -> str:
        """Such as "12 of the 100 images of 'cat' are taken for 'dog'"."""
        images = (
            "the only image" if self.images == 1 else f"{self.count} of the {self.images} images"
        )
        verb = "is" if self.count == 1 else "are"
        return f"{images} of {self.true!r} {verb} taken for {self.predicted!r}"


@dataclass(frozen=True)
class Answered:
    """Labelled images and what a model answers to them.

    Attributes:
        class_names: of the K classes.
        labels: the true classes, int64 (N,), N of 1 or more.
        probabilities: the model's, float (N, K).
        paths: where each image lies, relative to the data, as text with "/".
    """

    class_names: Sequence[str]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.floating]
    paths: Sequence[str]

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Counts (K, K): the row is the true class, the column the predicted one."""
        return confusion_matrix(self.probabilities, self.labels)

    @cached_property
    def figures(self) -> ClassFigures:
        """The figures of each class."""
        return class_figures(self.confusion)

    def class_means(self) -> dict[str, object]:
        """`balanced_accuracy`, `macro_f1` and `worst_class`, the class that is found least."""
        recall = np.where(self.figures.images > 0, self.figures.recall, np.inf)
        worst = int(recall.argmin())
        return {
            "balanced_accuracy": self.figures.balanced_accuracy,
            "macro_f1": self.figures.macro_f1,
            "worst_class": {"name": self.class_names[worst], "recall": float(recall[worst])},
        }

    def summary(self) -> dict[str, object]:
        """All figures of the model on these images."""
        return {
            "images": len(self.labels),
            "top1": top_k(self.probabilities, self.labels, 1),
            "top5": top_k(self.probabilities, self.labels, _TOP_5),
            "ece": expected_calibration_error(self.probabilities, self.labels),
            **self.class_means(),
        }

    def mistakes(self) -> list[Mistake]:
        """The images that are answered wrongly, the most confident mistake first.

        Images with wrong labels are at the head of the list: a good model is sure of what they
        show.
        """
        predicted = self.probabilities.argmax(axis=1)
        rows = np.flatnonzero(predicted != self.labels)
        sure = self.probabilities[rows, predicted[rows]]
        own = self.probabilities[rows, self.labels[rows]]
        # Of equally confident ones, the one whose label was held less probable comes first.
        return [
            Mistake(
                int(rows[n]),
                int(self.labels[rows[n]]),
                int(predicted[rows[n]]),
                float(sure[n]),
                float(own[n]),
            )
            for n in np.lexsort((rows, own, -sure))
        ]

    def most_confused(self, most: int) -> list[Confused]:
        """Up to `most` pairs of classes, by the number of images that are taken for another."""
        wrong = self.confusion * (1 - np.eye(len(self.class_names), dtype=np.int64))
        return confused_pairs(wrong, self.figures.images, self.class_names, most)


def confused_pairs(
    wrong: NDArray[np.int64], images: NDArray[np.int64], class_names: Sequence[str], most: int
) -> list[Confused]:
    """The largest entries of `wrong` (K, K), whose rows are the true classes, in words.

    `images` (K,) is how many images each class has.
    """
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [
        Confused(
            class_names[true],
            class_names[predicted],
            int(wrong[true, predicted]),
            int(images[true]),
        )
        for true, predicted in pairs
        if wrong[true, predicted] > 0
    ]


def write_class_report(
    folder: Path,
    answered: Answered,
    *,
    train: NDArray[np.int64] | None = None,
    validation: NDArray[np.int64] | None = None,
) -> None:
    """Writes `classes.csv`, `confusion.csv` and `errors.csv` to `folder`.

    Args:
        folder: of a run, or of the report.
        answered: the test images and the answers.
        train: how many training images each class has, int64 (K,); None: none.
        validation: the same of the images that are held out of training.
    """
    for name, rows in (
        (CLASSES_FILE, _class_rows(answered, train, validation)),
        (CONFUSION_FILE, _confusion_rows(answered)),
        (ERRORS_FILE, _error_rows(answered)),
    ):
        write_atomic(folder / name, csv_of(rows))


def csv_of(rows: Iterator[Sequence[object]]) -> str:
    """The rows as CSV text."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return printable_path(file.getvalue())


def _class_rows(
    answered: Answered, train: NDArray[np.int64] | None, validation: NDArray[np.int64] | None
) -> Iterator[Sequence[object]]:
    yield CLASS_COLUMNS
    figures = answered.figures
    none = np.zeros(len(answered.class_names), np.int64)
    columns = (
        none if train is None else train,
        none if validation is None else validation,
        figures.images,
        figures.precision,
        figures.recall,
        figures.f1,
    )
    lists = (column.tolist() for column in columns)
    yield from zip(answered.class_names, *lists, strict=True)


def _confusion_rows(answered: Answered) -> Iterator[Sequence[object]]:
    yield ("true", *answered.class_names)
    for name, counts in zip(answered.class_names, answered.confusion.tolist(), strict=True):
        yield (name, *counts)


def _error_rows(answered: Answered) -> Iterator[Sequence[object]]:
    yield ERROR_COLUMNS
    names = answered.class_names
    for mistake in answered.mistakes():
        yield (
            answered.paths[mistake.row],
            names[mistake.true],
            names[mistake.predicted],
            f"{mistake.probability:.{_DECIMALS}f}",
            f"{mistake.true_probability:.{_DECIMALS}f}",
        )
