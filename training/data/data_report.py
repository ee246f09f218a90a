"""What the check of a data set says: as `data.json`, as text, and as a list of pairs."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.base.files import atomic_path
from runtime.model.data_report import ClassCount, DataReport, Duplicates
from training.data.dataset import Dataset
from training.data.inspection import Inspection
from training.data.quality_warnings import warnings_of
from training.quality.twins import NONE, SPLITS, TEST, TRAIN, VALIDATION

_MAX_CLASSES = 60  # in the text
_COLUMNS = ("first", "second", "kind", "distance", "first_class", "second_class")
SPLIT_NAMES = ("train", "validation", "test")


def report_on(dataset: Dataset, inspection: Inspection) -> DataReport:
    """The report on a data set that was inspected."""
    twins = inspection.twins
    counts = [
        np.bincount(twins.labels[twins.splits == split], minlength=dataset.num_classes).tolist()
        for split in SPLITS
    ]
    rows = zip(dataset.class_names, *counts, strict=True)
    duplicates = Duplicates(
        across_splits=int(twins.exact_in(TEST, (TRAIN, VALIDATION)).sum()),
        near_across_splits=int(twins.near_in(TEST, (TRAIN, VALIDATION)).sum()),
        across_classes=twins.pictures_across_classes(),
    )
    return DataReport(
        data=dataset.name,
        classes=tuple(
            ClassCount(name=name, train=train, validation=validation, test=test)
            for name, train, validation, test in rows
        ),
        used=len(twins.labels),
        left_out=dict(dataset.left_out),
        duplicates=duplicates,
        warnings=warnings_of(dataset, inspection),
    )


def text_of(report: DataReport) -> str:
    """The report for people."""
    shown = report.classes[:_MAX_CLASSES]
    rows: list[Sequence[str]] = [("class", *SPLIT_NAMES)]
    rows += [(counted.name, *(f"{n:,}" for n in _counts(counted))) for counted in shown]
    if len(shown) < len(report.classes):
        rows.append((f"and {len(report.classes) - len(shown)} more", "", "", ""))
    totals = [sum(column) for column in zip(*map(_counts, report.classes), strict=True)]
    rows.append(("together", *(f"{total:,}" for total in totals)))
    if not totals[1]:  # most data have no validation split
        rows = [(name, train, test) for name, train, _, test in rows]
    first = max(len(row[0]) for row in rows)
    table = [f"  {row[0]:<{first}} " + "".join(f"{cell:>12}" for cell in row[1:]) for row in rows]
    found = report.duplicates
    held = "train or validation" if totals[1] else "train"
    numbers = [
        (found.across_splits, f"test images that are also in {held}"),
        (found.near_across_splits, "more that are, re-encoded, resized or mirrored"),
        (found.across_classes, "pictures in more than one class"),
    ]
    lines = [
        f"{report.data}: {report.used:,} images, {len(report.classes)} classes",
        "",
        *table,
        "",
        f"  left out    {left_out_words(report.left_out)}",
        *(
            f"  {word:<10}  {number:,} {what}"
            for word, (number, what) in zip(("duplicates", "", ""), numbers, strict=True)
        ),
        *(["", *(f"  warning: {text}" for text in report.warnings)] if report.warnings else []),
    ]
    return "\n".join(lines)


def left_out_words(left_out: Mapping[str, int]) -> str:
    """Such as "12: 9 not an image, 3 broken"; "nothing" if nothing was left out."""
    if not left_out:
        return "nothing"
    named = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
    return f"{sum(left_out.values()):,}: {named}"


def write_pairs(file: Path, dataset: Dataset, inspection: Inspection) -> int:
    """Writes the duplicates across splits and classes as CSV, and returns how many pairs they are.

    Without any, a file that is there is removed. Of an image with many duplicates, the nearest one
    in each other split and in another class is named. `distance` is the difference of two
    thumbnails of 16 x 16 grey pixels, root mean square, in levels of 255. A name that is not UTF-8
    is written with its own bytes.
    """
    pairs = _pairs(inspection)
    if not pairs:
        file.unlink(missing_ok=True)
        return 0
    paths = dataset.image_paths()
    twins = inspection.twins
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for first, second, distance in pairs:
        kind = "exact" if twins.groups[first] == twins.groups[second] else "near"
        names = [dataset.class_names[twins.labels[row]] for row in (first, second)]
        writer.writerow([paths[first], paths[second], kind, f"{distance:.2f}", *names])
    with atomic_path(file) as temporary:
        temporary.write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))
    return len(pairs)


def _pairs(inspection: Inspection) -> list[tuple[int, int, float]]:
    """The rows of duplicates in ascending order, and their distance."""
    twins = inspection.twins
    found: dict[tuple[int, int], float] = {}
    across, _ = twins.pairs_across_classes()
    for first, second in [*across.tolist(), *_exact_across_splits(inspection)]:
        found[min(first, second), max(first, second)] = 0.0
    for row, column in np.argwhere(twins.near != NONE).tolist():
        other = int(twins.near[row, column])
        found[min(row, other), max(row, other)] = float(twins.distance[row, column])
    return [(first, second, distance) for (first, second), distance in sorted(found.items())]


def _exact_across_splits(inspection: Inspection) -> list[tuple[int, int]]:
    """Each image that is in another split, too, with the first such image."""
    twins = inspection.twins
    pairs = []
    for split, others in ((VALIDATION, (TRAIN,)), (TEST, (TRAIN,)), (TEST, (VALIDATION,))):
        rows = np.flatnonzero(twins.exact_in(split, others))
        firsts = _first_rows(twins.groups, np.isin(twins.splits, others))
        pairs += [(firsts[int(twins.groups[row])], int(row)) for row in rows]
    return pairs


def _first_rows(groups: NDArray[np.int64], among: NDArray[np.bool_]) -> dict[int, int]:
    rows = np.flatnonzero(among)
    numbers, places = np.unique(groups[rows], return_index=True)
    return dict(zip(numbers.tolist(), rows[places].tolist(), strict=True))


def _counts(counted: ClassCount) -> tuple[int, int, int]:
    return counted.train, counted.validation, counted.test
