"""Exact duplicates and the splits that are drawn: copies of one picture go to one side.

Which pictures are copies is known only once they are decoded. Where none is on both sides, a split
stays as it was drawn, bit for bit.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.model.card import InputSpec
from training.data.dataset import places_of
from training.data.source import GroupOf, Split
from training.quality.exact_twins import Pictures, joined_groups, repeated_groups


def twins_across_splits(
    folder: Path,
    pictures: Mapping[str, Pictures],
    splits: Mapping[str, tuple[Split, InputSpec]],
) -> tuple[GroupOf, int]:
    """The groups of copies among all images, and how many test images are also in train.

    Args:
        folder: holds the decoded images, `train_images.npy` and `test_images.npy`.
        pictures: the decoded pictures of the splits "train" and "test", whose images are files or
            lie in files.
        splits: their images.
    """
    words = ("train", "test")
    shown = {
        word: _shown(
            np.load(folder / f"{word}_images.npy", mmap_mode="r"), pictures[word], splits[word][1]
        )
        for word in words
    }
    first = len(pictures["train"])

    def image_of(row: int) -> NDArray[np.uint8]:
        return shown["train"](row) if row < first else shown["test"](row - first)

    groups = repeated_groups(np.concatenate([pictures[word] for word in words]), image_of)
    shared = np.isin(groups[first:], groups[:first])
    images = [image for word in words for image in splits[word][0].images]
    counts = np.bincount(groups)
    group_of = {
        image: int(group) for image, group in zip(images, groups, strict=True) if counts[group] > 1
    }
    return group_of.get, int(shared.sum())


def groups_with_twins(
    folder: Path, pictures: Pictures, spec: InputSpec, groups: NDArray[np.int64] | None
) -> NDArray[np.int64] | None:
    """The groups of the training images, int64 (N,), in which copies of one picture are one group.

    Args:
        folder: holds the decoded images, `train_images.npy`.
        pictures: the decoded pictures, (N,).
        spec: how they were prepared.
        groups: int64 (N,), those that the data name; None: none.

    Returns:
        None if there are no groups, and no copies.
    """
    images = np.load(folder / "train_images.npy", mmap_mode="r")
    return _with_twins(pictures, _shown(images, pictures, spec), groups)


def with_twins(
    pictures: Pictures, images: NDArray[np.uint8], groups: NDArray[np.int64] | None
) -> NDArray[np.int64] | None:
    """The same of decoded images without bars, uint8 (N, H, W, 3)."""
    return _with_twins(pictures, lambda row: images[row], groups)


def _shown(
    images: NDArray[np.uint8], pictures: Pictures, spec: InputSpec
) -> Callable[[int], NDArray[np.uint8]]:
    """Gives what the picture of a row fills of its image."""

    def image_of(row: int) -> NDArray[np.uint8]:
        ((left, top, right, bottom),) = places_of(pictures[row : row + 1], spec)
        image: NDArray[np.uint8] = images[row, top:bottom, left:right]
        return image

    return image_of


def _with_twins(
    pictures: Pictures,
    image_of: Callable[[int], NDArray[np.uint8]],
    groups: NDArray[np.int64] | None,
) -> NDArray[np.int64] | None:
    twins = repeated_groups(pictures, image_of)
    if len(np.unique(twins)) == len(twins):
        return groups
    return twins if groups is None else joined_groups(groups, twins)
