"""A folder of .npy arrays."""

import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.base.errors import UserError
from runtime.model.preprocess import preprocess
from tests.support.noise_arrays import write_noise_arrays
from training.data import Dataset, load_dataset
from training.data.arrays import channel_statistics


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """12 + 6 random images of 20 px in three classes."""
    counts = {"train": 12, "test": 6}
    root = write_noise_arrays(tmp_path / "my set", counts, size=20, classes=3, labels=np.int32)
    (root / "classes.txt").write_text("red\ngreen\nblue sky\n")
    return root


def load(root: Path, image_size: int | None = None) -> Dataset:
    return load_dataset(str(root), image_size=image_size, progress=False)


def test_arrays_of_the_right_size_are_mapped_where_they_lie(arrays: Path, cache: Path) -> None:
    dataset = load(arrays)
    assert dataset.name == "my-set"
    assert dataset.class_names == ("red", "green", "blue sky")
    assert isinstance(dataset.train_images, np.memmap)
    assert Path(str(dataset.train_images.filename)) == arrays / "train_images.npy"
    assert np.array_equal(dataset.test_images, np.load(arrays / "test_images.npy"))
    assert dataset.test_labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert dataset.test_labels.dtype == np.int64
    assert not cache.exists()


def test_other_sizes_go_through_preprocess_into_the_cache(arrays: Path, cache: Path) -> None:
    dataset = load(arrays, 32)
    originals = np.load(arrays / "train_images.npy")
    expected = [preprocess(image, dataset.input) for image in originals]
    assert np.array_equal(dataset.train_images, np.stack(expected))
    assert dataset.test_images.shape == (6, 32, 32, 3)
    assert cache.exists()
    np.save(arrays / "train_images.npy", originals[::-1])
    assert np.array_equal(load(arrays, 32).train_images, np.stack(expected[::-1]))


def test_images_that_are_not_square(arrays: Path) -> None:
    for split in ("train", "test"):
        images = np.load(arrays / f"{split}_images.npy")
        np.save(arrays / f"{split}_images.npy", np.concatenate([images, images], axis=1))
    assert load(arrays).test_images.shape == (6, 20, 20, 3)


def test_mean_and_std_are_measured(arrays: Path) -> None:
    pixels = np.load(arrays / "train_images.npy") / 255
    spec = load(arrays).input
    assert spec.mean == pytest.approx(pixels.mean(axis=(0, 1, 2)), abs=1e-4)
    assert spec.std == pytest.approx(pixels.std(axis=(0, 1, 2)), abs=1e-4)


def test_images_that_are_all_alike_have_a_usable_std(arrays: Path) -> None:
    np.save(arrays / "train_images.npy", np.full((12, 20, 20, 3), 7, dtype=np.uint8))
    assert load(arrays).input.std == pytest.approx((1 / 255,) * 3, abs=1e-4)


def test_measuring_takes_no_multiple_of_the_images() -> None:
    images = np.zeros((40, 256, 256, 3), dtype=np.uint8)
    tracemalloc.start()
    channel_statistics(images)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < images.nbytes


def test_a_list_of_classes_may_begin_with_a_byte_order_mark(arrays: Path) -> None:
    (arrays / "classes.txt").write_bytes("\ufeffred\r\ngreen\r\nblue\r\n".encode())
    assert load(arrays).class_names == ("red", "green", "blue")


def test_without_a_list_of_classes_they_are_numbered(arrays: Path) -> None:
    (arrays / "classes.txt").unlink()
    assert load(arrays).class_names == ("0", "1", "2")


def test_a_stray_label_is_refused_before_classes_are_numbered_up_to_it(arrays: Path) -> None:
    (arrays / "classes.txt").unlink()
    np.save(arrays / "train_labels.npy", np.array([*range(3)] * 3 + [0, 1, 10**5]))
    with pytest.raises(UserError, match="labels go up to 100000, and 12 training images"):
        load(arrays)


def save(name: str, array: np.ndarray) -> Callable[[Path], None]:
    return lambda root: np.save(root / name, array)


IMAGES = np.zeros((12, 20, 20, 3), dtype=np.uint8)
DAMAGED_HEAD = b"\x93NUMPY\x01\x00\x0d\x00{'descr': (((\n"
MISTAKES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no labels": (lambda root: (root / "train_labels.npy").unlink(), "does not exist"),
    "no test images": (lambda root: (root / "test_images.npy").unlink(), "does not exist"),
    "float images": (save("train_images.npy", IMAGES.astype(np.float32)), "expected uint8"),
    "channels first": (save("train_images.npy", IMAGES.transpose(0, 3, 1, 2)), "expected uint8"),
    "grey": (save("test_images.npy", IMAGES[:6, :, :, 0]), r"expected uint8 \(N, H, W, 3\)"),
    "float labels": (save("train_labels.npy", np.zeros(12)), "expected integers"),
    "one label too few": (
        save("train_labels.npy", np.arange(11) % 3),
        r"expected integers \(12,\)",
    ),
    "one-hot labels": (save("test_labels.npy", np.eye(6, dtype=np.int64)), "expected integers"),
    "label too large": (save("test_labels.npy", np.array([0, 1, 2, 3, 0, 1])), r"0\.\.3, expected"),
    "negative label": (save("train_labels.npy", np.arange(12) % 3 - 1), r"-1\.\.1, expected"),
    "images without pixels": (save("train_images.npy", IMAGES[:, :0]), "its images have no pixels"),
    "class without images": (save("train_labels.npy", np.arange(12) % 2), "'blue sky' has no tr"),
    "no images": (lambda root: _empty(root), "no test images"),
    "pickled objects": (
        lambda root: np.save(
            root / "train_labels.npy", np.array([{}] * 12, dtype=object), allow_pickle=True
        ),
        "not a whole .npy file",
    ),
    "text": (lambda root: (root / "test_images.npy").write_text("text") and None, "not a whole"),
    "empty file": (
        lambda root: (root / "test_images.npy").write_bytes(b"") and None,
        "not a whole",
    ),
    "a damaged head": (
        lambda root: (root / "test_labels.npy").write_bytes(DAMAGED_HEAD) and None,
        "not a whole",
    ),
    "truncated": (lambda root: _truncate(root / "train_images.npy"), "not a whole"),
    "too few names": (lambda root: (root / "classes.txt").write_text("a\nb\n") and None, "0..2"),
    "names in Latin-1": (
        lambda root: (root / "classes.txt").write_bytes(b"rouge\nvert\n\xe9t\xe9\n") and None,
        "expected UTF-8 text",
    ),
    "an archive": (
        lambda root: (root / "train_images.npy").write_bytes(_archive()) and None,
        "not a whole .npy file",
    ),
    "names twice": (
        lambda root: (root / "classes.txt").write_text("a\nb\na\n") and None,
        "all different",
    ),
}


def _empty(root: Path) -> None:
    np.save(root / "test_images.npy", IMAGES[:0])
    np.save(root / "test_labels.npy", np.zeros(0, dtype=np.int64))


def _archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, images=IMAGES)
    return file.getvalue()


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_clear_line(arrays: Path, mistake: str) -> None:
    make, message = MISTAKES[mistake]
    make(arrays)
    with pytest.raises(UserError, match=message) as error:
        load(arrays)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [None, 16])
def test_class_folders_beside_arrays_are_a_warning(
    arrays: Path, cache: Path, write_image: Any, size: int | None
) -> None:
    write_image(arrays / "cat" / "1.png", seed=1)
    assert load(arrays, size).warnings == ()
    write_image(arrays / "dog" / "1.png", seed=2)
    (warning,) = load(arrays, size).warnings
    assert warning.endswith("not the images in the folders beside them: cat, dog")


@pytest.mark.parametrize("image_size", [None, 20])
def test_arrays_of_other_splits_are_told_and_counted(
    arrays: Path, capsys: pytest.CaptureFixture[str], image_size: int | None
) -> None:
    assert load_dataset(str(arrays), image_size=image_size).left_out == {}
    np.save(arrays / "val_images.npy", IMAGES[:3])
    np.save(arrays / "mean_images.npy", IMAGES[:1])
    assert load_dataset(str(arrays), image_size=image_size).left_out == {"no split": 3}
    said = f"{arrays}/val_images.npy is left out: expected arrays for train and test (3 images)\n"
    assert capsys.readouterr().out.count(said) == 1
