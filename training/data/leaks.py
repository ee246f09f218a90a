"""Images of train that are also in the test split: a run would be measured on what it learned.

Training stops where the user's own splits have more than a few of them, and leaves them out of
train where it is asked to.
"""

import shlex
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import UserError
from training.config.options import DROP_EXACT, DROP_NEAR, KEEP_LEAKS
from training.data.dataset import Dataset
from training.data.inspection import Inspection, inspect_images
from training.data.kept_rows import with_rows
from training.data.source import DUPLICATE
from training.quality.twins import TEST, TRAIN, VALIDATION

_MAX_SHARE = 0.01  # of the test images


def check_leaks(dataset: Dataset, inspection: Inspection, *, where: str) -> None:
    """Checks that few test images are also in train or validation, equal in every pixel.

    Args:
        dataset: whose splits are the user's own.
        inspection: of its images.
        where: what `--data` was.

    Raises:
        UserError: if they are more than 1 % of the test images; it names the ways on.
    """
    tested = len(dataset.test_labels)
    leaks = int(inspection.twins.exact_in(TEST, (TRAIN, VALIDATION)).sum())
    if leaks > _MAX_SHARE * tested:
        raise UserError(
            f"{dataset.name}: {leaks} of {tested} test images ({leaks / tested:.1%}) are also in "
            "train or validation, equal in every pixel, and their figures would be those of "
            "learned images; --drop-leaks leaves them out of train and validation, --allow-leaks "
            "trains all the same, and `python training/check_data.py "
            f"{shlex.quote(where)} --pairs pairs.csv` lists them"
        )


def without_leaks(dataset: Dataset, drop: str, *, progress: bool) -> Dataset:
    """`dataset` without the training and validation images that are copies of held-out ones.

    Left out are training images that are also in validation or test, and validation images that
    are also in test. The test split stays as it is.

    Args:
        dataset: any.
        drop: "none": nothing is left out; "exact": exact duplicates; "near": near ones, too.
        progress: whether to show how far the work is.

    Raises:
        UserError: if a class would be left without training images, or a validation split without
            any, or if the cache cannot be written.
    """
    if drop == KEEP_LEAKS:
        return dataset
    twins = inspect_images(dataset, progress=progress).twins
    leaks = np.zeros(len(twins.splits), dtype=np.bool_)
    for split, others in ((TRAIN, (VALIDATION, TEST)), (VALIDATION, (TEST,))):
        leaks |= twins.exact_in(split, others)
        if drop == DROP_NEAR:
            leaks |= twins.near_in(split, others)
    if not leaks.any():
        return dataset
    leaks = leaks[: len(dataset.train_labels)]
    kept = np.flatnonzero(~leaks)
    trained = len(dataset.train_labels) - dataset.validation_images
    _check_classes(dataset, dataset.train_labels[kept[kept < trained]], drop)
    if dataset.validation_images and not (kept >= trained).any():
        also = "also in test" if drop == DROP_EXACT else "also in test, or nearly"
        raise UserError(
            f"{dataset.name}: all {dataset.validation_images} validation images are {also}, "
            f"so that {_option(drop)} would leave none; give validation other images, or remove "
            "it, and a share of train is held out instead"
        )
    return replace(
        with_rows(dataset, kept),
        validation_images=int((kept >= trained).sum()),
        left_out={
            **dataset.left_out,
            # A list's doubled rows are counted by the same word.
            DUPLICATE: dataset.left_out.get(DUPLICATE, 0) + int(leaks.sum()),
        },
    )


def _check_classes(dataset: Dataset, labels: NDArray[np.int64], drop: str) -> None:
    counts = np.bincount(labels, minlength=dataset.num_classes)
    if not counts.all():
        name = dataset.class_names[int(np.argmin(counts))]
        raise UserError(
            f"{dataset.name}: all training images of class {name!r} are also held out, so that "
            f"{_option(drop)} would leave it without any; add others, or split the images anew"
        )


def _option(drop: str) -> str:
    """The words of the command that ask for it."""
    return "--drop-leaks" if drop == DROP_EXACT else f"--drop-leaks {drop}"
