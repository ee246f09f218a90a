"""From the images of each class to splits: labels, the draw of a test split, and groups."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import UserError
from training.data.group_draw import draw
from training.data.source import Contents, GroupOf, Picture, Split, split_of
from training.quality.exact_twins import joined_groups


def labelled(classes: Sequence[Sequence[Picture]]) -> Split:
    """The images of all classes, one class after the other; a label is the class's position."""
    labels = np.repeat(np.arange(len(classes)), [len(images) for images in classes])
    return split_of([image for images in classes for image in images], labels)


def split_classes(
    classes: Mapping[str, Sequence[Picture]],
    num_test: Sequence[int],
    *,
    split_seed: int,
    group_of: GroupOf | None = None,
    groups_are: str = "in one group",
) -> Contents:
    """Takes `num_test[n]` images of class n as test split.

    The draw depends on the seed and on the class alone: adding a class changes no other's split.

    Args:
        classes: the images of each class.
        num_test: how many images of each class are tested on.
        split_seed: draws them.
        group_of: images for which it gives an equal value go to one side together, also those of
            different classes. Then as many images of a class are drawn as is nearest to `num_test`.
            None: the image is in no group.
        groups_are: what images of one group are, for messages.

    Raises:
        UserError: if a class cannot be split, because its images are one group.
    """
    numbers: dict[Hashable, int] = {}
    groups = [numbered(images, group_of, numbers) for images in classes.values()]

    def permutation(position: int, count: int) -> NDArray[np.int64]:
        seed = (split_seed, *names[position].encode())
        return np.random.default_rng(seed).permutation(count)

    names = list(classes)
    drawn = draw(groups, num_test, permutation, generator=np.random.default_rng(split_seed))
    test = []
    for name, flags in zip(names, drawn, strict=True):
        if flags is None:
            raise UserError(
                f"class {name!r} cannot be split: its {counted_images(len(classes[name]))} are "
                f"{groups_are}, or tied to images that other classes need; add other images, or "
                "give the split yourself"
            )
        test.append(flags)
    train = [~flags for flags in test]
    parts = [_chosen([*classes.values()], groups, flags, group_of) for flags in (train, test)]
    pictures = [picture for images in classes.values() for picture in images]

    def redraw(other_groups: GroupOf) -> Contents:
        joined = joined_group_of(pictures, group_of, other_groups)
        copies = "copies of one picture"
        return split_classes(
            classes,
            num_test,
            split_seed=split_seed,
            group_of=joined,
            groups_are=copies if group_of is None else f"{groups_are}, or joined by {copies}",
        )

    return Contents(tuple(classes), *parts, redraw=redraw)


def joined_group_of(pictures: Sequence[Picture], first: GroupOf | None, second: GroupOf) -> GroupOf:
    """Gives groups that are made of all groups, of both kinds, that have pictures in common."""
    if first is None:
        return second
    groups = joined_groups(numbered(pictures, first, {}), numbered(pictures, second, {}))
    return dict(zip(pictures, groups.tolist(), strict=True)).__getitem__


def numbered(
    images: Sequence[Picture], group_of: GroupOf | None, numbers: dict[Hashable, int]
) -> NDArray[np.int64]:
    """The number of each image's group, int64 (N,). An image in no group is one of its own.

    Args:
        images: any.
        group_of: gives the group of an image; None: there are none.
        numbers: the numbers of the groups that are known, to which new ones are added.
    """
    values = [group_of(image) if group_of else None for image in images]
    keys = [object() if value is None else value for value in values]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def counted_images(count: int) -> str:
    """The number of images in words."""
    return "1 image" if count == 1 else f"{count} images"


def _chosen(
    classes: Sequence[Sequence[Picture]],
    groups: Sequence[NDArray[np.int64]],
    flags: Sequence[NDArray[np.bool_]],
    group_of: GroupOf | None,
) -> Split:
    """The images of each class whose flag is set, with their groups if there are any."""
    rows = [np.flatnonzero(of_class) for of_class in flags]
    split = labelled(
        [[images[int(row)] for row in kept] for images, kept in zip(classes, rows, strict=True)]
    )
    if group_of is None:
        return split
    kept_groups = [numbers[kept] for numbers, kept in zip(groups, rows, strict=True)]
    return replace(split, groups=np.concatenate(kept_groups))
