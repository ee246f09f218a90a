"""What fails, as the bundle's files say it: classes, what is confused, the worst mistakes."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime.base.errors import BundleError
from runtime.evaluation.class_report import (
    CLASS_COLUMNS,
    CLASSES_FILE,
    CONFUSION_FILE,
    ERROR_COLUMNS,
    ERRORS_FILE,
    SHEET_FILE,
    Confused,
    confused_pairs,
)

ERRORS_SHOWN = 100
PAIRS_SHOWN = 8
# A bundle may come from anybody: what is larger is not read.
_MAX_BYTES = 32 << 20
_MAX_SHEET_PIXELS = 4_000_000


@dataclass(frozen=True)
class ClassRow:
    """A class: how many images it has in each split, and how well it is found in the last one."""

    name: str
    train: int
    validation: int
    test: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ErrorRow:
    """A test image that is answered wrongly."""

    path: str
    true: str
    predicted: str
    probability: float
    true_probability: float


@dataclass(frozen=True)
class Report:
    """What fails on the test images.

    Attributes:
        classes: all of them, in the model's order.
        confused: the pairs that are confused most.
        errors: the most confident mistakes, at most ERRORS_SHOWN, the worst first.
        count: how many mistakes there are.
        sheet: their pictures; None: the bundle has none.
    """

    classes: list[ClassRow]
    confused: list[Confused]
    errors: list[ErrorRow]
    count: int
    sheet: Image.Image | None


def read_report(folder: Path, class_names: Sequence[str]) -> Report | None:
    """The report in the bundle `folder`; None: a bundle of an older version, or a lone file.

    Raises:
        BundleError: a file is damaged, or of a model with other classes.
    """
    if not (folder / CLASSES_FILE).is_file():
        return None
    try:
        classes = _classes(folder / CLASSES_FILE, class_names)
        counts = _counts(folder / CONFUSION_FILE, class_names)
        errors = [
            ErrorRow(path, true, predicted, float(sure), float(own))
            for path, true, predicted, sure, own in _rows(folder / ERRORS_FILE, ERROR_COLUMNS)
        ]
        sheet = _sheet(folder / SHEET_FILE)
    except (OSError, ValueError, OverflowError, csv.Error, Image.DecompressionBombError) as error:
        raise BundleError(
            f"{folder}: the files that say what fails cannot be read ({error}); export the run "
            "again with `python export/run.py`"
        ) from error
    wrong = counts * (1 - np.eye(len(classes), dtype=np.int64))
    confused = confused_pairs(wrong, counts.sum(axis=1), class_names, PAIRS_SHOWN)
    return Report(classes, confused, errors[:ERRORS_SHOWN], len(errors), sheet)


def _classes(file: Path, class_names: Sequence[str]) -> list[ClassRow]:
    rows = [
        ClassRow(name, int(train), int(held_out), int(test), float(p), float(recall), float(f1))
        for name, train, held_out, test, p, recall, f1 in _rows(file, CLASS_COLUMNS)
    ]
    if [row.name for row in rows] != list(class_names):
        raise ValueError(f"the classes of {file.name} are not those of the model")
    return rows


def _counts(file: Path, class_names: Sequence[str]) -> NDArray[np.int64]:
    """How many images of each class (rows) are taken for which one (columns), int64 (K, K)."""
    rows = [[int(count) for count in counts] for _, *counts in _rows(file, ("true", *class_names))]
    if len(rows) != len(class_names):
        raise ValueError(f"{file.name} has {len(rows)} rows for {len(class_names)} classes")
    return np.array(rows, np.int64)


def _rows(file: Path, columns: Sequence[str]) -> Iterator[list[str]]:
    """The rows of a CSV file under its title, which must be `columns`."""
    if file.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{file.name} has more than {_MAX_BYTES} bytes")
    rows = csv.reader(io.StringIO(file.read_bytes().decode(), newline=""))
    if next(rows, None) != list(columns):
        raise ValueError(f"{file.name} has other columns than expected")
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"{file.name} has a row of {len(row)} cells, not {len(columns)}")
        yield row


def _sheet(file: Path) -> Image.Image | None:
    if not file.is_file():
        return None
    if file.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{file.name} has more than {_MAX_BYTES} bytes")
    with Image.open(file, formats=("PNG",)) as picture:
        if picture.width * picture.height > _MAX_SHEET_PIXELS:
            raise ValueError(f"{file.name} has more than {_MAX_SHEET_PIXELS} pixels")
        return picture.convert("RGB")
