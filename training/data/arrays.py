"""A folder of arrays: `{train,test}_{images,labels}.npy` and, if there is one, `classes.txt`.

Images are uint8 (N, H, W, 3) in RGB order, labels are integers (N,). Arrays that already have the
input's size are mapped where they lie. Others are resized, and the result goes to the cache.
"""

from collections.abc import Iterator
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import UserError
from runtime.base.shown_text import some
from runtime.model.card import Fit
from training.data.cache import load_cached
from training.data.class_folders import has_class_folders
from training.data.dataset import (
    MAX_IMAGE_SIZE,
    MIN_IMAGE_SIZE,
    Channels,
    Dataset,
    check_image_size,
    fitted,
    whole_images,
)
from training.data.folders import name_of
from training.data.listing import FolderReader
from training.data.loading_progress import report
from training.data.source import (
    NO_SPLIT,
    Contents,
    Source,
    Split,
    check_labels,
    fingerprint_of,
    row_paths,
    split_of,
)
from training.data.split_twins import with_twins
from training.data.split_words import role_of
from training.quality.exact_twins import pictures_of

CLASSES_FILE = "classes.txt"
_TRAIN_IMAGES = "train_images.npy"
_SPLITS = ("train", "test")
_IMAGE_DIMENSIONS = 4
_OF_DAMAGE = (
    ValueError,
    EOFError,
    TypeError,
    SyntaxError,
    TokenError,
    OverflowError,
)  # as numpy raises them
_STATISTICS_IMAGES = 10_000
_MIN_STD = 1 / 255  # images that are all alike would have a deviation of 0
_DECIMALS = 4


def is_array_folder(root: Path) -> bool:
    """Whether the folder holds arrays rather than class folders."""
    return (root / _TRAIN_IMAGES).exists()


def load_arrays(
    root: Path,
    *,
    image_size: int | None,
    fit: Fit = "crop",
    progress: bool,
    refresh: bool = False,
) -> Dataset:
    """The arrays in `root` at `image_size` pixels; None: the shorter side that they have.

    With `refresh`, arrays that have to be resized are resized again.

    Raises:
        UserError: if a file is absent or broken, or if images and labels do not fit.
    """
    name = name_of(root)
    images = {split: _load(root / f"{split}_images.npy") for split in _SPLITS}
    labels = {split: _load(root / f"{split}_labels.npy") for split in _SPLITS}
    for split in _SPLITS:
        _check_split(root, split, images[split], labels[split])
    splits = [
        split_of(
            images[split],
            labels[split],
            row_paths(f"{split}_images.npy", range(len(labels[split]))),
        )
        for split in _SPLITS
    ]
    contents = Contents(_class_names(root, splits), *splits)
    check_labels(name, contents.class_names, *(split.labels for split in splits))

    left_out, warnings = _left_out(root), tuple(_unread_folders(root))
    shapes = {array.shape[1:3] for array in images.values()}
    side = min(images["train"].shape[1:3])
    default = min(max(side, MIN_IMAGE_SIZE), MAX_IMAGE_SIZE)
    size = check_image_size(default if image_size is None else image_size)
    mean, std = channel_statistics(images["train"])
    geometry = fitted(whole_images(size, mean=mean, std=std), fit)
    if shapes != {(size, size)}:
        files = [root / f"{split}_{what}.npy" for split in _SPLITS for what in ("images", "labels")]
        fingerprint = fingerprint_of(root, files, "\n".join(contents.class_names))
        source = Source(
            name, fingerprint, lambda: contents, left_out, tuple(files), warnings=warnings
        )
        return load_cached(source, geometry, progress=progress, refresh=refresh)
    pictures = pictures_of(images["train"])
    return Dataset(
        name=name,
        class_names=contents.class_names,
        input=geometry.input,
        train_images=images["train"],
        train_labels=splits[0].labels,
        test_images=images["test"],
        test_labels=splits[1].labels,
        train_paths=splits[0].paths,
        test_paths=splits[1].paths,
        left_out=left_out,
        warnings=warnings,
        train_groups=with_twins(pictures, images["train"], None),
        train_pictures=pictures,
    )


def _left_out(root: Path) -> dict[str, int]:
    """How many images are in arrays of other splits. Reports the arrays."""
    count = 0
    for file in sorted(root.glob("*_images.npy")):
        word = file.name.removesuffix("_images.npy")
        if word not in _SPLITS and role_of(word) is not None:
            images = sum(_load(file).shape[:1])
            report(f"{file} is left out: expected arrays for train and test ({images} images)")
            count += images
    return {NO_SPLIT: count} if count else {}


def _unread_folders(root: Path) -> Iterator[str]:
    """Warns of class folders beside the arrays."""
    reader = FolderReader(root)
    if has_class_folders(root, reader):
        names = [folder.name for folder in reader.listing(root).folders]
        yield f"arrays are read, and not the images in the folders beside them: {some(names)}"


def channel_statistics(images: NDArray[np.uint8]) -> tuple[Channels, Channels]:
    """Mean and standard deviation of each channel, from 0 to 1, of uint8 images (N, H, W, 3).

    Of more than 10,000 images, an even selection is used.
    """
    step = -(-len(images) // _STATISTICS_IMAGES)
    values = np.arange(256) / 255
    histograms = np.zeros((3, len(values)), dtype=np.int64)
    for image in images[::step]:  # one by one: bincount takes eight bytes for each value
        for histogram, channel in zip(histograms, image.reshape(-1, 3).T, strict=True):
            histogram += np.bincount(channel, minlength=len(values))
    mean, std = [], []
    for counts in histograms:
        mean.append(float(np.average(values, weights=counts)))
        variance = float(np.average((values - mean[-1]) ** 2, weights=counts))
        std.append(max(_MIN_STD, variance**0.5))
    return _channels(mean), _channels(std)


def _channels(values: list[float]) -> Channels:
    red, green, blue = (round(value, _DECIMALS) for value in values)
    return red, green, blue


def _load(file: Path) -> NDArray[Any]:
    """A memory map of the file's array."""
    try:
        return np.lib.format.open_memmap(file, mode="r")  # np.load would open an .npz as well
    except FileNotFoundError:
        raise UserError(
            f"{file} does not exist; expected train_images.npy, train_labels.npy, "
            "test_images.npy and test_labels.npy in one folder"
        ) from None
    except (*_OF_DAMAGE, IsADirectoryError) as error:
        raise UserError(f"{file} is not a whole .npy file of numbers ({error})") from error


def _check_split(root: Path, split: str, images: NDArray[Any], labels: NDArray[Any]) -> None:
    if images.dtype != np.uint8 or images.ndim != _IMAGE_DIMENSIONS or images.shape[-1] != 3:  # noqa: PLR2004
        raise UserError(
            f"{root / f'{split}_images.npy'} is {images.dtype} {images.shape}, "
            "expected uint8 (N, H, W, 3) in RGB order"
        )
    if 0 in images.shape[1:]:
        raise UserError(
            f"{root / f'{split}_images.npy'} is {images.shape}: its images have no pixels; "
            "expected at least one in both directions"
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (len(images),):
        raise UserError(
            f"{root / f'{split}_labels.npy'} is {labels.dtype} {labels.shape}, "
            f"expected integers ({len(images)},), one for each image"
        )


def _class_names(root: Path, splits: list[Split]) -> tuple[str, ...]:
    """The lines of `classes.txt`, or the labels themselves."""
    file = root / CLASSES_FILE
    if file.exists():
        try:
            # "-sig": editors on Windows begin the file with a mark that is not part of a name.
            return tuple(file.read_text(encoding="utf-8-sig").strip().splitlines())
        except (UnicodeDecodeError, IsADirectoryError) as error:
            raise UserError(
                f"{file} cannot be read ({error}); expected UTF-8 text, a class name a line"
            ) from error
    highest = max((int(split.labels.max()) for split in splits if len(split.labels)), default=-1)
    # Checked before names are made: one stray label of a billion would make a billion names.
    if highest >= (images := len(splits[0].labels)):
        raise UserError(
            f"{root}: labels go up to {highest}, and {images} training images can be of at most "
            f"{images} classes; expected labels from 0 without gaps, or the names in {CLASSES_FILE}"
        )
    return tuple(str(label) for label in range(highest + 1))
