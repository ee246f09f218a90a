"""Exact and near duplicates: what is found, and what is not taken for one."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scenes import scenes

from training.quality.exact_twins import exact_groups, pictures_of
from training.quality.thumbnails import empty_thumbnails, fill_thumbnails
from training.quality.twins import TEST, TRAIN, VALIDATION, Twins, fill_near, twins_without_near

Array = NDArray[np.uint8]


def jpeg(image: Array, quality: int) -> Array:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def half(image: Array) -> Array:
    picture = Image.fromarray(image)
    side = image.shape[0]
    small = picture.resize((side // 2, side // 2))
    return np.asarray(small.resize((side, side)))


def twins_of(train: Array, test: Array, labels: list[int] | None = None) -> Twins:
    images = np.concatenate([train, test])
    splits = np.repeat([TRAIN, TEST], [len(train), len(test)])
    named = np.zeros(len(images), np.int64) if labels is None else np.array(labels, np.int64)
    return search(images, splits, named)


def search(images: Array, splits: NDArray[np.int64], labels: NDArray[np.int64]) -> Twins:
    thumbnails = empty_thumbnails(len(images))
    assert sum(fill_thumbnails(thumbnails, images)) == len(images)
    blank = thumbnails.span < 8
    twins = twins_without_near(splits, labels, exact_groups(pictures_of(images), blank))
    assert sum(fill_near(twins, thumbnails, blank)) == (~blank).sum()
    return twins


CHANGES: dict[str, Callable[[Array], Array]] = {
    "JPEG 90": lambda image: jpeg(image, 90),
    "JPEG 50": lambda image: jpeg(image, 50),
    "half": half,
    "half, JPEG 75": lambda image: jpeg(half(image), 75),
    "mirrored": lambda image: np.ascontiguousarray(image[:, ::-1]),
    "mirrored, JPEG 50": lambda image: jpeg(np.ascontiguousarray(image[:, ::-1]), 50),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_a_near_duplicate_of_its_original_alone(change: str) -> None:
    originals = scenes(40)
    copies = np.stack([CHANGES[change](image) for image in originals[:10]])
    twins = twins_of(originals, copies)
    assert twins.near[40:, TRAIN].tolist() == list(range(10))
    assert twins.near_in(TEST, (TRAIN,)).sum() == 10
    assert twins.near_in(TRAIN, (TEST,)).nonzero()[0].tolist() == list(range(10))
    assert not twins.exact_in(TEST, (TRAIN,)).any()


def test_equal_pixels_are_exact_duplicates_and_not_near_ones() -> None:
    originals = scenes(20)
    twins = twins_of(originals, originals[5:8])
    assert twins.exact_in(TEST, (TRAIN,)).nonzero()[0].tolist() == [20, 21, 22]
    assert twins.exact_in(TRAIN, (TEST,)).nonzero()[0].tolist() == [5, 6, 7]
    assert not twins.near_in(TEST, (TRAIN,)).any()
    assert (twins.near == -1).all()


def test_one_level_in_one_pixel_is_no_exact_duplicate() -> None:
    originals = scenes(3)
    changed = originals[:1].copy()
    changed[0, 0, 0, 0] ^= 1
    twins = twins_of(originals, changed)
    assert not twins.exact_in(TEST, (TRAIN,)).any()
    assert twins.near[3].tolist() == [0, -1, -1, -1]


def test_different_pictures_are_no_duplicates() -> None:
    twins = twins_of(scenes(150), scenes(50, seed=1))
    assert (twins.near == -1).all()


def test_equal_shapes_of_other_colours_are_no_duplicates() -> None:
    shapes = np.full((2, 64, 64, 3), 20, np.uint8)
    shapes[0, 16:48, 16:48] = (200, 30, 30)
    shapes[1, 16:48, 16:48] = (30, 30, 230)
    twins = twins_of(shapes[:1], shapes[1:])
    assert (twins.near == -1).all()


def test_faint_pictures_that_differ_are_no_duplicates() -> None:
    # They differ by less than 8 levels, because they have hardly any contrast.
    faint = (120 + scenes(60) / 12).astype(np.uint8)
    twins = twins_of(faint[:40], faint[40:])
    assert (twins.near == -1).all()


def test_pictures_of_one_colour_are_not_duplicates_of_each_other() -> None:
    black = np.zeros((8, 32, 32, 3), np.uint8)
    black[3] += 1
    twins = twins_of(black[:4], black[4:])
    assert not twins.exact_in(TEST, (TRAIN,)).any()
    assert (twins.near == -1).all()


def test_of_several_near_duplicates_the_nearest_is_kept() -> None:
    originals = scenes(10)
    train = np.stack([jpeg(originals[0], 40), jpeg(originals[0], 95), jpeg(originals[0], 60)])
    twins = twins_of(train, originals[:1])
    assert twins.near[3, TRAIN] == 1
    assert (twins.near[:3, TEST] == 3).all()
    assert twins.distance[1, TEST] < twins.distance[2, TEST] < twins.distance[0, TEST]


def test_pictures_in_several_classes_are_counted_once_each() -> None:
    pictures = scenes(12)
    # 0 is in three classes, 1 exactly and 2 nearly in two; 3 is twice in its own class.
    images = np.stack(
        [*pictures, pictures[0], pictures[0], pictures[1], jpeg(pictures[2], 80), pictures[3]]
    )
    labels = np.array([0] * 12 + [1, 2, 1, 1, 0])
    twins = search(images, np.full(len(images), TRAIN), labels)
    exact, near = twins.pairs_across_classes()
    assert exact.tolist() == [[0, 12], [0, 13], [1, 14]]
    assert near.tolist() == [[2, 15]]
    assert twins.pictures_across_classes() == 3


def test_each_split_is_looked_at_by_itself() -> None:
    pictures = scenes(6)
    images = np.stack([*pictures, pictures[0], jpeg(pictures[1], 80), pictures[0], pictures[5]])
    splits = np.array([TRAIN] * 6 + [VALIDATION] * 2 + [TEST] * 2)
    twins = search(images, splits, np.zeros(10, np.int64))
    assert twins.exact_in(VALIDATION, (TRAIN,)).nonzero()[0].tolist() == [6]
    assert twins.near_in(VALIDATION, (TRAIN,)).nonzero()[0].tolist() == [7]
    assert twins.exact_in(TEST, (TRAIN, VALIDATION)).nonzero()[0].tolist() == [8, 9]
    assert twins.exact_in(TEST, (VALIDATION,)).nonzero()[0].tolist() == [8]


def test_a_zoomed_view_is_compared_with_the_same_part() -> None:
    # Training keeps the whole square of a photograph, and a test image is its centre.
    originals = scenes(30, side=256)
    centres = originals[:10, 16:240, 16:240]
    thumbnails = empty_thumbnails(40)
    list(fill_thumbnails(thumbnails, originals, zoom=224 / 256))
    list(fill_thumbnails(thumbnails, np.ascontiguousarray(centres), first=30))
    splits = np.repeat([TRAIN, TEST], [30, 10])
    twins = twins_without_near(splits, np.zeros(40, np.int64), np.arange(40))
    list(fill_near(twins, thumbnails, np.zeros(40, bool)))
    assert twins.near[30:, TRAIN].tolist() == list(range(10))


def test_thousands_of_pictures_of_one_scene_are_found_one_by_one() -> None:
    # The frames of a video are all near duplicates of each other.
    frames = np.repeat(scenes(1, side=32), 1000, axis=0)
    frames[:, 0, 0, 0] = np.arange(1000) % 251
    frames[:, 0, 0, 1] = np.arange(1000) // 251
    twins = twins_of(frames[:800], frames[800:])
    assert twins.near_in(TEST, (TRAIN,)).sum() == 200
    assert twins.near_in(TRAIN, (TEST,)).sum() == 800
