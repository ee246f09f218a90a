"""Exact duplicates and the splits that are drawn: copies of one picture go to one side.

Which pictures are copies is known only once they are decoded. Where none is on both sides, a split
stays as it was drawn, bit for bit.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from runtime.model.card import InputSpec
from training.data.dataset import places_of
from training.data.source import GroupOf, Split
from training.quality.exact_twins import Pictures, joined_groups, repeated_groups


def twins_across_splits(
    images: Mapping[str, NDArray[np.uint8]],
    pictures: Mapping[str, Pictures],
    splits: Mapping[str, tuple[Split, InputSpec]],
) -> tuple[NDArray[np.int64], int]:
    """The groups of copies among all images, and how many test images are also in train.

    The groups are int64 (N,), of the images of "train" and then of "test".

    Args:
        images: the decoded images of both splits.
        pictures: the decoded pictures of the splits "train" and "test", whose images are files or
            lie in files.
        splits: their images.
    """
    words = ("train", "test")
    shown = {word: _shown(images[word], pictures[word], splits[word][1]) for word in words}
    first = len(pictures["train"])

    def image_of(row: int) -> NDArray[np.uint8]:
        return shown["train"](row) if row < first else shown["test"](row - first)

    groups = repeated_groups(np.concatenate([pictures[word] for word in words]), image_of)
    shared = np.isin(groups[first:], groups[:first])
    return groups, int(shared.sum())


def groups_of_copies(
    groups: NDArray[np.int64], splits: Mapping[str, tuple[Split, InputSpec]]
) -> GroupOf:
    """Gives the group of each picture that occurs again, by what `twins_across_splits` gave."""
    pictures = [image for word in ("train", "test") for image in splits[word][0].images]
    counts = np.bincount(groups)
    return {
        picture: int(group)
        for picture, group in zip(pictures, groups, strict=True)
        if counts[group] > 1
    }.get


def groups_with_twins(
    images: NDArray[np.uint8],
    pictures: Pictures,
    spec: InputSpec,
    groups: NDArray[np.int64] | None,
) -> NDArray[np.int64] | None:
    """The groups of the training images, int64 (N,), in which copies of one picture are one group.

    Args:
        images: the decoded images, uint8 (N, H, W, 3).
        pictures: the decoded pictures, (N,).
        spec: how they were prepared.
        groups: int64 (N,), those that the data name; None: none.

    Returns:
        None if there are no groups, and no copies.
    """
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
