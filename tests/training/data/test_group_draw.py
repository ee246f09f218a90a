"""Splits that keep groups together: as near to the share as whole groups allow, and one by seed."""

from collections import Counter
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pytest

from runtime.base.errors import UserError
from training.data.class_lists import split_classes
from training.data.source import Contents
from training.data.splits import split_validation


def files(name: str, count: int) -> list[Path]:
    return [Path(name, f"{number:04}.png") for number in range(count)]


def drawn(contents: Contents) -> list[Path]:
    return [Path(image) for image in contents.test.images]


def test_without_groups_the_draw_is_what_it_always_was() -> None:
    classes = {"cat": files("cat", 61), "dög": files("dög", 7)}
    wanted = []
    for (name, images), count in zip(classes.items(), (12, 1), strict=True):
        order = np.random.default_rng((3, *name.encode())).permutation(len(images))
        wanted += [images[i] for i in sorted(order[:count])]
    assert drawn(split_classes(classes, [12, 1], split_seed=3)) == wanted
    each_alone = split_classes(classes, [12, 1], split_seed=3, group_of=lambda image: image)
    assert drawn(each_alone) == wanted
    assert drawn(split_classes(classes, [12, 1], split_seed=4)) != wanted


def test_the_held_out_images_without_groups_are_what_they_always_were() -> None:
    labels = np.random.default_rng(1).integers(0, 5, 400)
    generator = np.random.default_rng(0)
    chosen = [
        generator.permutation(rows)[: min(round(0.1 * len(rows)), len(rows) - 1)]
        for rows in (np.flatnonzero(labels == label) for label in range(5))
    ]
    assert np.array_equal(split_validation(labels, 0.1)[1], np.sort(np.concatenate(chosen)))


@pytest.mark.parametrize("seed", range(6))
def test_no_group_is_divided_and_the_share_is_the_nearest_that_groups_allow(seed: int) -> None:
    generator = np.random.default_rng(seed)
    sizes = generator.integers(3, 12, 9)
    images = files("cat", int(sizes.sum()))
    group = dict(zip(images, np.repeat(np.arange(9), sizes), strict=True))
    wanted = round(0.2 * len(images))
    sums = [sum(some) for some in chain.from_iterable(combinations(sizes, n) for n in range(1, 9))]
    best = min(abs(total - wanted) for total in sums)
    contents = split_classes({"cat": images}, [wanted], split_seed=seed, group_of=group.get)
    test = {group[image] for image in drawn(contents)}
    assert not test & {group[image] for image in contents.train.images}
    assert abs(len(contents.test.labels) - wanted) == best
    again = split_classes({"cat": images}, [wanted], split_seed=seed, group_of=group.get)
    assert drawn(again) == drawn(contents)


def test_the_seed_chooses_the_groups_and_other_classes_do_not() -> None:
    images = files("cat", 40)
    others = files("dog", 20)

    def test_groups(seed: int, classes: dict[str, list[Path]]) -> frozenset[str]:
        contents = split_classes(
            classes,
            [8, 4][: len(classes)],
            split_seed=seed,
            group_of=lambda image: image.stem[:-1],
        )
        return frozenset(image.stem[:-1] for image in drawn(contents) if image.parts[0] == "cat")

    alone = [test_groups(seed, {"cat": images}) for seed in range(5)]
    assert len(set(alone)) > 1
    grouped = {"cat": images, "dog": [image.with_stem(f"d{image.stem}") for image in others]}
    assert [test_groups(seed, grouped) for seed in range(5)] == alone


def test_a_group_with_images_of_several_classes_is_on_one_side() -> None:
    """30 patients with pictures of up to three kinds, as in medical data."""
    generator = np.random.default_rng(0)
    classes: dict[str, list[Path]] = {"benign": [], "malignant": [], "normal": []}
    for patient in range(30):
        for name in classes:
            count = int(generator.integers(0, 7))
            classes[name] += [Path(name, f"{patient}_{number}.png") for number in range(count)]
    wanted = [round(0.2 * len(images)) for images in classes.values()]

    def patient_of(image: Path) -> str:
        return image.stem.partition("_")[0]

    contents = split_classes(classes, wanted, split_seed=0, group_of=patient_of)
    test, train = drawn(contents), [Path(image) for image in contents.train.images]
    assert len(test) + len(train) == sum(map(len, classes.values()))
    assert not {patient_of(image) for image in test} & {patient_of(image) for image in train}
    counts = Counter(image.parts[0] for image in test)
    assert all(abs(counts[name] - count) <= 1 for name, count in zip(classes, wanted, strict=True))


def test_images_without_a_group_fill_up_what_groups_leave() -> None:
    images = files("cat", 50)
    group = dict.fromkeys(images[:7], "burst")
    contents = split_classes({"cat": images}, [10], split_seed=1, group_of=group.get)
    assert len(contents.test.labels) == 10
    assert len({image in drawn(contents) for image in images[:7]}) == 1


def test_a_class_that_is_one_group_cannot_be_split() -> None:
    classes = {"cat": files("cat", 5), "dog": files("dog", 3)}
    with pytest.raises(UserError, match="class 'dog' cannot be split: its 3 images are in one"):
        split_classes(
            classes,
            [1, 1],
            split_seed=0,
            group_of=lambda image: "d" if image.parts[0] == "dog" else image,
        )


def test_two_classes_that_share_two_groups_are_split_between_them() -> None:
    classes = {"cat": files("cat", 8), "dog": files("dog", 6)}
    contents = split_classes(
        classes, [2, 1], split_seed=0, group_of=lambda image: int(image.stem) % 2
    )
    assert {int(image.stem) % 2 for image in drawn(contents)} in ({0}, {1})
    assert sorted(np.bincount(contents.test.labels)) == [3, 4]


def test_the_validation_images_keep_groups_together() -> None:
    labels = np.repeat([0, 1], [60, 40])
    groups = np.arange(100) // 4
    trained, held_out = split_validation(labels, 0.1, groups=groups)
    assert not set(groups[trained]) & set(groups[held_out])
    assert np.bincount(labels[held_out]).tolist() == [4, 4]
    one_group = np.where(labels == 1, 99, np.arange(100))
    assert np.bincount(labels[split_validation(labels, 0.1, groups=one_group)[1]]).tolist() == [6]


@pytest.mark.parametrize("shared", [False, True])
def test_thousands_of_groups_are_drawn(shared: bool) -> None:
    """Of three images each, and 4000 is no multiple of three."""
    classes = {name: files(name, 19_998) for name in ("cat", "dog")}

    def burst_of(image: Path) -> tuple[str, int]:
        return "" if shared else image.parts[0], int(image.stem) // 3

    contents = split_classes(classes, [4_000, 4_000], split_seed=0, group_of=burst_of)
    assert np.bincount(contents.test.labels).tolist() == [3_999, 3_999]


def test_the_splits_know_their_groups_and_a_run_holds_whole_groups_out() -> None:
    classes = {"cat": files("cat", 60), "dog": files("dog", 40)}
    contents = split_classes(
        classes, [12, 8], split_seed=0, group_of=lambda image: (image.parts[0], image.stem[:3])
    )
    for split in (contents.train, contents.test):
        assert split.groups is not None
        kinds = zip(
            [(image.parts[0], image.stem[:3]) for image in split.images], split.groups, strict=True
        )
        assert len(set(kinds)) == len(set(split.groups))
    assert not set(contents.train.groups) & set(contents.test.groups)
    assert split_classes(classes, [12, 8], split_seed=0).train.groups is None
