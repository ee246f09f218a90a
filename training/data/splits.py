"""What a run makes of the training images before its first step.

It holds some of them out, may give some of them wrong labels, and may lower the default batch size.
"""

from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import UserError
from runtime.model.holdout import KeptApart, most_for_validation
from training.config.recipe import FEWEST_TO_SHARE as FEWEST_TO_SHARE  # export reads it here
from training.config.recipe import Recipe
from training.data.dataset import Dataset
from training.data.group_draw import draw
from training.data.rare_classes import thinned

# All runs hold out the same images, whatever their seed: seeds are compared on equal terms.
_HELD_OUT_SEED = 0
_SHARE_STREAM = 1
_APART_STREAM = 3
_OF_GROUP_STREAM = 4
_NOISE_STREAM = 2  # keeps these draws apart from those of orders and partners with the same seed


def split_validation(
    labels: NDArray[np.int64],
    fraction: float,
    *,
    groups: NDArray[np.int64] | None = None,
    fold: int = 0,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers of the images that are trained on, and of those that are held out.

    Args:
        labels: int64 (N,).
        fraction: share of each class that is held out, rounded to whole images. At least one image
            of each class is trained on.
        groups: int64 (N,). Images of one group are trained on, or held out, together: the share is
            then as near as the groups allow.
        fold: which of the shares. Two of them have no image in common, up to rounding, where no
            image has a group.

    Returns:
        Two ascending int64 arrays, which together hold 0 to N - 1.
    """
    generator = np.random.default_rng(_HELD_OUT_SEED)
    numbers = np.arange(len(labels), dtype=np.int64)
    rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    drawn = draw(
        [(numbers if groups is None else groups)[of_class] for of_class in rows],
        [min(round(fraction * len(of_class)), len(of_class) - 1) for of_class in rows],
        lambda _, count: np.roll(generator.permutation(count), -fold * round(fraction * count)),
        generator=generator,
        least=0,
    )
    chosen = [of_class[flags] for of_class, flags in zip(rows, drawn, strict=True)]
    validation = np.sort(np.concatenate(chosen)).astype(np.int64)
    return np.setdiff1d(numbers, validation), validation


def held_out(
    dataset: Dataset, fraction: float, *, fold: int = 0, train_share: float = 1.0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers of the training images that are trained on, and of those that are held out.

    The user's own validation split is held out where there is one; otherwise it is `fraction` of
    each class, the `fold`-th of such shares, with whole groups where the data have some. Of each
    class's other images `train_share` is trained on, at least one. Both arrays are int64,
    ascending.
    """
    if not dataset.validation_images:
        train, validation = split_validation(
            dataset.train_labels, fraction, groups=dataset.train_groups, fold=fold
        )
    else:
        rows = np.arange(len(dataset.train_labels), dtype=np.int64)
        count = dataset.validation_images
        train, validation = rows[:-count], rows[-count:]
    if train_share < 1:
        train = _share_of(train, dataset.train_labels, train_share)
    return train, validation


def rows_of_run(dataset: Dataset, recipe: Recipe) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`held_out` as the recipe asks for it, without the training images that it thins."""
    train, validation = held_out(
        dataset,
        recipe.validation_fraction,
        fold=recipe.validation_fold,
        train_share=recipe.train_share,
    )
    return thinned(train, dataset.train_labels, ratio=recipe.class_imbalance), validation


def choosing_images(
    dataset: Dataset, validation: NDArray[np.int64], *, thresholds: bool = True
) -> NDArray[np.bool_]:
    """Which of the held out images choose the epoch and the temperature.

    The others are kept apart for the thresholds of the exported files, whose bound holds only on
    images that have chosen nothing. They are every second image of each class, with whole groups
    together. There are none if a bound would have less than half of `FEWEST_TO_SHARE` images: it
    counts one of each group, and `validation.npz` holds few large ones.

    Args:
        dataset: the data set.
        validation: int64 (V,), the rows of the training images that are held out.
        thresholds: of the recipe; false: all of them choose.

    Returns:
        Flags (V,).
    """
    choosing = np.ones(len(validation), dtype=np.bool_)
    if not thresholds or len(validation) < FEWEST_TO_SHARE:
        return choosing
    groups = validation if dataset.train_groups is None else dataset.train_groups[validation]
    _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
    sizes = np.bincount(group_of)
    generator = np.random.default_rng((_HELD_OUT_SEED, _APART_STREAM))
    order = generator.permutation(len(sizes))
    labels = dataset.train_labels[validation][first]
    surplus = 0  # of the images that choose, over those that are kept apart
    apart = np.zeros(len(sizes), dtype=np.bool_)
    for group in order[np.argsort(labels[order], kind="stable")]:
        apart[group] = surplus > 0
        surplus += -sizes[group] if apart[group] else sizes[group]
    usable = min(int(apart.sum()), most_for_validation(dataset.input.size))
    return choosing if 2 * usable < FEWEST_TO_SHARE else ~apart[group_of]


def one_of_each_group(dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """One row at random of each group among `rows` (N,), ascending; all where there are no groups.

    Images of one group are right or wrong together. A bound that counts images as independent holds
    for one of each group alone.
    """
    if dataset.train_groups is None:
        return rows
    shuffled = np.random.default_rng((_HELD_OUT_SEED, _OF_GROUP_STREAM)).permutation(rows)
    _, first = np.unique(dataset.train_groups[shuffled], return_index=True)
    return np.sort(shuffled[first])


def without_kept_apart(
    rows: NDArray[np.int64], dataset: Dataset, kept: KeptApart | None
) -> NDArray[np.int64]:
    """Those of the `rows` (N,) of the training images that may choose numbers of a file.

    All but those that thresholds are found with, and all other images of their groups.
    """
    if kept is None:
        return rows
    groups = dataset.train_groups
    if groups is None:
        return np.setdiff1d(rows, kept.rows)
    return rows[~np.isin(groups[rows], groups[kept.rows])]


def _share_of(
    rows: NDArray[np.int64], labels: NDArray[np.int64], share: float
) -> NDArray[np.int64]:
    """`share` of the rows of each class, at least one; a larger share holds all of a smaller."""
    generator = np.random.default_rng((_HELD_OUT_SEED, _SHARE_STREAM))
    kept = []
    for label in np.unique(labels[rows]):
        own = generator.permutation(rows[labels[rows] == label])
        kept.append(own[: max(1, round(share * len(own)))])
    return np.sort(np.concatenate(kept))


def with_label_noise(
    dataset: Dataset, rows: NDArray[np.int64], *, share: float, seed: int
) -> Dataset:
    """`dataset` with symmetric label noise: some training labels are replaced by another class.

    Each wrong label is drawn uniformly from the other classes. The labels of held out images and of
    the test split stay as they are.

    Args:
        dataset: the data set, which is not changed.
        rows: int64, the training images that are trained on.
        share: share of `rows` that get a wrong label, rounded to whole images.
        seed: of the run.

    Raises:
        UserError: if there is only one class.
    """
    if share == 0:
        return dataset
    if dataset.num_classes == 1:
        raise UserError(f"label_noise {share}: {dataset.name} has one class, expected at least 2")
    generator = np.random.default_rng((seed, 0, _NOISE_STREAM))
    chosen = generator.permutation(rows)[: round(share * len(rows))]
    # A step of 1 to K - 1 classes never leads back to the true class.
    steps = generator.integers(1, dataset.num_classes, len(chosen))
    labels = np.array(dataset.train_labels)
    labels[chosen] = (labels[chosen] + steps) % dataset.num_classes
    return replace(dataset, train_labels=labels)


def check_selection(recipe: Recipe, dataset: Dataset) -> None:
    """Checks that there are images for what the recipe judges on validation images.

    Raises:
        UserError: if `select: best` or `patience` is asked for and no image is held out.
    """
    asked = [f"patience {recipe.patience}"] if recipe.patience else []
    if recipe.select == "best":
        asked.insert(0, "select best")
    if asked and not len(rows_of_run(dataset, recipe)[1]):
        raise UserError(
            f"{' and '.join(asked)}: there is no validation image to judge an epoch by "
            f"(validation_fraction {recipe.validation_fraction:g} holds out none of "
            f"{len(dataset.train_labels)} training images); raise validation_fraction, "
            "or give the data a folder val/"
        )


def check_batch(recipe: Recipe, dataset: Dataset) -> None:
    """Checks that the images that the recipe trains on fill one of its batches.

    Raises:
        UserError: if there are fewer.
    """
    count = len(rows_of_run(dataset, recipe)[0])
    if recipe.batch_size > count:
        named = f"name one from 2 to {count}, or " if count > 1 else ""
        raise UserError(
            f"batch size {recipe.batch_size} does not fit {count} training images (beside "
            f"{len(dataset.train_labels) - count} that are held out or left out); "
            f"{named}add images"
        )


def fit_batch(
    recipe: Recipe, dataset: Dataset, *, say: Callable[[str], None], processes: int = 1
) -> Recipe:
    """`recipe` with a batch size that the training images can fill, for each of `processes`.

    `say` gets a sentence if that is a smaller one than the recipe's.
    """
    train_rows, _ = rows_of_run(dataset, recipe)
    most = max(2, len(train_rows) // processes)
    if recipe.batch_size <= most:
        return recipe
    say(
        f"batch size {most}: there are {len(train_rows)} training images, "
        f"fewer than the {recipe.batch_size} of the recipe"
    )
    return msgspec.structs.replace(recipe, batch_size=most)
