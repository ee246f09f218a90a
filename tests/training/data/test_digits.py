"""The embedded digits: real images, a fixed split, and the runtime's own preprocessing."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from runtime.base.errors import UserError
from runtime.model.preprocess import preprocess
from training.data import Dataset, load_dataset


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def test_every_digit_is_in_exactly_one_split(digits: Dataset) -> None:
    original = np.repeat(
        np.rint(datasets.load_digits().images * 255 / 16).astype(np.uint8)[..., None], 3, axis=3
    )
    brought = [preprocess(image, digits.input).tobytes() for image in original]
    split = [image.tobytes() for image in (*digits.train_images, *digits.test_images)]
    assert sorted(split) == sorted(brought)
    assert (len(digits.train_images), len(digits.test_images)) == (1437, 360)


def test_the_split_is_stratified_and_fixed_by_its_seed(digits: Dataset) -> None:
    assert np.bincount(digits.test_labels).tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]
    again, other = load_dataset("digits"), load_dataset("digits", split_seed=1)
    assert np.array_equal(again.test_images, digits.test_images)
    assert not np.array_equal(other.test_images, digits.test_images)


def test_labels_belong_to_the_images(digits: Dataset) -> None:
    raw = datasets.load_digits()
    grey = np.rint(raw.images * 255 / 16).astype(np.uint8)[..., None]
    label_of = {
        preprocess(np.repeat(image, 3, axis=2), digits.input).tobytes(): label
        for image, label in zip(grey, raw.target, strict=True)
    }
    found = [label_of[image.tobytes()] for image in digits.test_images]
    assert found == digits.test_labels.tolist()


def test_a_png_of_a_test_image_is_the_same_input(digits: Dataset) -> None:
    picture = io.BytesIO()
    Image.fromarray(digits.test_images[7]).save(picture, format="PNG")
    assert np.array_equal(preprocess(picture.getvalue(), digits.input), digits.test_images[7])


def test_mean_and_std_are_those_of_the_training_images(digits: Dataset) -> None:
    pixels = digits.train_images / 255
    assert digits.input.mean == pytest.approx(pixels.mean(axis=(0, 1, 2)), abs=1e-3)
    assert digits.input.std == pytest.approx(pixels.std(axis=(0, 1, 2)), abs=1e-3)


@pytest.mark.parametrize("size", [15, 1025, 0, -4])
def test_image_sizes_out_of_range_are_refused(size: int) -> None:
    with pytest.raises(UserError, match=f"image size {size} .* 16 to 1024"):
        load_dataset("digits", image_size=size)


def test_another_image_size(digits: Dataset) -> None:
    larger = load_dataset("digits", image_size=40)
    assert larger.test_images.shape == (360, 40, 40, 3)
    assert larger.input.size == 40
