"""Exact duplicates and the splits that are drawn: copies of one picture go to one side.

Which pictures are copies is known only once they are decoded. Where none is on both sides, a split
stays as it was drawn, bit for bit.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.model.input_spec import InputSpec
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
    rows = {word: np.load(folder / f"{word}_images.npy", mmap_mode="r") for word in words}
    first = len(pictures["train"])

    def image_of(row: int) -> NDArray[np.uint8]:
        image: NDArray[np.uint8] = rows["train"][row] if row < first else rows["test"][row - first]
        return image

    groups = repeated_groups(np.concatenate([pictures[word] for word in words]), image_of)
    shared = np.isin(groups[first:], groups[:first])
    images = [image for word in words for image in splits[word][0].images]
    counts = np.bincount(groups)
    group_of = {
        image: int(group) for image, group in zip(images, groups, strict=True) if counts[group] > 1
    }
    return group_of.get, int(shared.sum())


def groups_with_twins(
    folder: Path, pictures: Pictures, groups: NDArray[np.int64] | None
) -> NDArray[np.int64] | None:
    """The groups of the training images, int64 (N,), in which copies of one picture are one group.

    Args:
        folder: holds the decoded images, `train_images.npy`.
        pictures: the decoded pictures, (N,).
        groups: int64 (N,), those that the data name; None: none.

    Returns:
        None if there are no groups, and no copies.
    """
    images = np.load(folder / "train_images.npy", mmap_mode="r")
    return with_twins(pictures, images, groups)


def with_twins(
    pictures: Pictures, images: NDArray[np.uint8], groups: NDArray[np.int64] | None
) -> NDArray[np.int64] | None:
    """The same of decoded images, uint8 (N, H, W, 3)."""
    twins = repeated_groups(pictures, lambda row: images[row])
    if len(np.unique(twins)) == len(twins):
        return groups
    return twins if groups is None else joined_groups(groups, twins)
