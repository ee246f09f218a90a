"""What may spoil a training or its figures, as sentences that say how to find it."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from runtime.base.shown_text import some
from training.data.dataset import Dataset
from training.data.inspection import Inspection
from training.quality.twins import TEST, TRAIN, VALIDATION

FEW_IMAGES = 20  # training images of a class
MAX_IMBALANCE = 10
MAX_ASPECT = 3  # beyond it, the square at the centre shows less than a third of the picture
USUAL_ASPECT = 2  # of half of the pictures: then the square shows no more than half of them
_FAINT_SPAN = 24  # levels; 10 and 12 bits in 16 give at most 3 and 15
_ADVICE = "--fit letterbox shows pictures whole"


def warnings_of(dataset: Dataset, inspection: Inspection) -> tuple[str, ...]:
    """The warnings, the gravest first. Names that are not text are shown by their codes."""
    sentences = [
        *dataset.warnings,
        *_leaks(dataset, inspection),
        *_classes(dataset),
        *_contents(dataset, inspection),
        *_sizes(dataset, inspection),
    ]
    return tuple(text.encode(errors="backslashreplace").decode() for text in sentences)


def _leaks(dataset: Dataset, inspection: Inspection) -> Iterator[str]:
    twins = inspection.twins
    for split, others, word, where in (
        (TEST, (TRAIN, VALIDATION), "test", "train or validation"),
        (VALIDATION, (TRAIN,), "validation", "train"),
    ):
        where = where if dataset.validation_images else "train"
        total = int((twins.splits == split).sum())
        exact, near = twins.exact_in(split, others), twins.near_in(split, others)
        if exact.any():
            yield (
                f"{_of(exact.sum(), total, word)} also in {where}, equal in every pixel: "
                f"{_named(dataset, exact)}"
            )
        if near.any():
            yield (
                f"{_of(near.sum(), total, word)} near duplicates of images in {where} "
                f"(re-encoded, resized or mirrored): {_named(dataset, near)}"
            )
    pictures = twins.pictures_across_classes()
    if pictures:
        exact_pairs, near_pairs = twins.pairs_across_classes()
        first, second = (exact_pairs if len(exact_pairs) else near_pairs)[0]
        paths = dataset.image_paths()
        names = [dataset.class_names[twins.labels[row]] for row in (first, second)]
        yield (
            f"{_counted(pictures, 'picture lies', 'pictures lie')} in more than one class, such as "
            f"{paths[first]} ({names[0]}) and {paths[second]} ({names[1]})"
        )


def _classes(dataset: Dataset) -> Iterator[str]:
    trained = len(dataset.train_labels) - dataset.validation_images
    counts = np.bincount(dataset.train_labels[:trained], minlength=dataset.num_classes)
    few = np.flatnonzero(counts < FEW_IMAGES)
    if len(few):
        named = [f"{dataset.class_names[label]} ({counts[label]})" for label in few]
        yield (
            f"{_counted(len(few), 'class has', 'classes have')} fewer than {FEW_IMAGES} training "
            f"images: {some(named)}"
        )
    tested = np.bincount(dataset.test_labels, minlength=dataset.num_classes)
    untested = [dataset.class_names[label] for label in np.flatnonzero(tested == 0)]
    if untested:
        words = _counted(len(untested), "class has", "classes have")
        yield f"{words} no test images: {some(untested)}"
    most, least = int(counts.argmax()), int(counts.argmin())
    if counts[least] and counts[most] > MAX_IMBALANCE * counts[least]:
        yield (
            f"classes are out of balance, {counts[most] / counts[least]:.0f} to 1: "
            f"{dataset.class_names[most]} has {counts[most]:,} training images and "
            f"{dataset.class_names[least]} {counts[least]:,}"
        )


def _contents(dataset: Dataset, inspection: Inspection) -> Iterator[str]:
    blank, span = inspection.blank, inspection.span
    if blank.any():
        yield (
            f"{_counted(int(blank.sum()), 'picture is', 'pictures are')} of one colour or nearly, "
            f"and not counted as duplicates of each other: {_named(dataset, blank)}"
        )
    faint = span[: len(dataset.train_labels)] < _FAINT_SPAN
    if faint.mean() > 1 / 2:
        yield (
            f"{_of(faint.sum(), len(faint), 'training')} nearly constant: their pixels are less "
            f"than {_FAINT_SPAN} of 255 levels apart; 10 or 12 bits that were saved as 16 look "
            "like that"
        )


def _sizes(dataset: Dataset, inspection: Inspection) -> Iterator[str]:
    if dataset.train_pictures is None or dataset.test_pictures is None:
        return  # arrays of one size
    width = inspection.pictures["width"].astype(np.int64)
    height = inspection.pictures["height"].astype(np.int64)
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    size, fit = dataset.input.size, dataset.input.fit
    tiny = 2 * (longer if fit == "letterbox" else shorter) < size
    if tiny.any():
        yield (
            f"{_counted(int(tiny.sum()), 'picture is', 'pictures are')} smaller than half of the "
            f"input's {size} pixels: {_named(dataset, tiny)}"
        )
    long = longer > MAX_ASPECT * shorter
    if fit == "letterbox" or not len(longer):
        return  # shown whole, as they are
    usual = float(np.median(longer / np.maximum(shorter, 1)))
    if fit == "crop" and usual >= USUAL_ASPECT:
        yield (
            f"half of the pictures are at least {usual:.1f} times as long as wide, and the square "
            f"at the centre shows {1 / usual:.0%} of such a picture or less; {_ADVICE}"
        )
    elif long.any():
        seen = "which stretching distorts"
        if fit == "crop":
            seen = f"of which the square at the centre shows little ({_ADVICE})"
        yield (
            f"{_counted(int(long.sum()), 'picture is', 'pictures are')} more than {MAX_ASPECT} "
            f"times as long as wide, {seen}: {_named(dataset, long)}"
        )


def _named(dataset: Dataset, chosen: NDArray[np.bool_]) -> str:
    paths = dataset.image_paths()
    return some([paths[row] for row in np.flatnonzero(chosen)])


def _of(count: int, total: int, word: str) -> str:
    """Such as "1 of 300 test images is"."""
    return f"{count:,} of {total:,} {word} images {'is' if count == 1 else 'are'}"


def _counted(count: int, one: str, many: str) -> str:
    return f"1 {one}" if count == 1 else f"{count:,} {many}"
