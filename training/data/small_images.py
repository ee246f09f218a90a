"""Data sets of small images of one size: digits, Fashion-MNIST, CIFAR-10 and CIFAR-100."""

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import UserError
from runtime.model.card import Fit
from runtime.model.preprocess import preprocess
from training.data.dataset import Dataset, fitted, whole_images
from training.data.fetch import Published, obtain
from training.data.published_arrays import (
    ARRAY_FOLDERS,
    has_published_arrays,
    published_arrays,
)
from training.data.source import Contents, Source, fingerprint_of, row_paths, split_of

DIGITS = "digits"
DIGITS_SIZE = 32
_DIGITS_TEST_IMAGES = 360  # a fifth
_DIGITS_HIGHEST = 16  # the images hold values from 0 to 16
# Measured on the training split of split seed 0 at 32 px.
_DIGITS_MEAN = 0.306
_DIGITS_STD = 0.324

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_FASHION_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_FASHION_DIMENSIONS = (3, 1, 3, 1)
_CIFAR_FILES = {
    "cifar10": (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta"),
    "cifar100": ("train", "test", "meta"),
}
_CIFAR_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
_CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_IDX_UINT8 = 8  # the type byte of an IDX file


def load_digits(image_size: int, *, split_seed: int, fit: Fit = "crop") -> Dataset:
    """scikit-learn's handwritten digits: 1,797 real 8x8 grey images, without a download.

    Args:
        image_size: side of the images in pixels; grey is repeated as RGB.
        fit: goes into the input; the digits themselves are squares.
        split_seed: fixes which fifth of the images is the test split, with equal shares of classes.
    """
    from sklearn import datasets, model_selection  # takes a second to import

    digits = datasets.load_digits()
    grey = np.rint(digits.images * (255 / _DIGITS_HIGHEST)).astype(np.uint8)
    train, test = model_selection.train_test_split(
        np.arange(len(grey)),
        test_size=_DIGITS_TEST_IMAGES,
        stratify=digits.target,
        random_state=split_seed,
    )
    geometry = whole_images(image_size, mean=(_DIGITS_MEAN,) * 3, std=(_DIGITS_STD,) * 3)
    spec = fitted(geometry, fit).input
    rgb = _rgb(grey)

    def images(rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        return np.stack([preprocess(rgb[row], spec) for row in rows])

    labels = digits.target.astype(np.int64)
    return Dataset(
        name=DIGITS,
        class_names=tuple(str(name) for name in digits.target_names),
        input=spec,
        train_images=images(train),
        train_labels=labels[train],
        test_images=images(test),
        test_labels=labels[test],
        train_paths=row_paths("", train),
        test_paths=row_paths("", test),
    )


def fashion_mnist(name: str, data_root: Path | None, split_seed: int) -> Source:
    """Fashion-MNIST from its four IDX files, gzipped (as Debian's package has them) or not."""
    folder = obtain(name, _FASHION, data_root)
    files = [_idx_file(folder, stem) for stem in _FASHION_FILES]

    def read() -> Contents:
        arrays = [
            read_idx(file, dimensions=dimensions)
            for file, dimensions in zip(files, _FASHION_DIMENSIONS, strict=True)
        ]
        train_images, train_labels, test_images, test_labels = arrays
        return Contents(
            FASHION_CLASSES,
            split_of(_rgb(train_images), train_labels),
            split_of(_rgb(test_images), test_labels),
        )

    return Source(name, fingerprint_of(folder, files), read, files=tuple(files))


def cifar(name: str, data_root: Path | None, split_seed: int) -> Source:
    """CIFAR-10 or CIFAR-100 (fine labels), read and checked by torchvision.

    CIFAR-100 may also lie there as arrays, which `published_arrays` checks.
    """
    folder = obtain(name, _CIFAR[name], data_root)
    if not _has_batches(name, folder):
        return published_arrays(name, folder)
    files = [folder / file for file in _CIFAR_FILES[name]]

    def read() -> Contents:
        # torchvision would look for a folder of its own name; the user's folder may have any.
        local = type("Local", (_torchvision_class(name),), {"base_folder": ""})
        try:
            train, test = local(folder, train=True), local(folder, train=False)
        except RuntimeError as error:  # torchvision raises it where a checksum differs
            raise UserError(
                f"{folder}: {error}; remove the folder or get it again from {_CIFAR_PAGE}"
            ) from error
        names = tuple(label.replace("_", " ") for label in train.classes)
        return Contents(
            names, split_of(train.data, train.targets), split_of(test.data, test.targets)
        )

    return Source(name, fingerprint_of(folder, files), read, files=tuple(files))


def read_idx(file: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """The uint8 array of an IDX file, gzipped or not.

    The format is described at the end of http://yann.lecun.com/exdb/mnist/.

    Raises:
        UserError: if the file is not whole, or its array has another number of dimensions.
    """
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        zeros, kind, rank = content[:2], content[2], content[3]
        shape = np.frombuffer(content, ">u4", count=rank, offset=4).astype(np.int64)
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
        if zeros != b"\0\0" or kind != _IDX_UINT8:
            raise UserError(f"{file} is not an IDX file of bytes; get it again")
        if rank != dimensions:
            raise UserError(f"{file} has {rank} dimensions, expected {dimensions}; get it again")
        return values.reshape(shape)
    except (OSError, EOFError, IndexError, ValueError, zlib.error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} is not a whole IDX file ({error}); get it again") from error


def _idx_file(folder: Path, stem: str) -> Path:
    plain = folder / stem
    return plain if plain.exists() else folder / f"{stem}.gz"


def _rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(grey[..., None], 3, axis=3)


def _torchvision_class(name: str) -> Any:
    from torchvision import datasets  # takes seconds to import

    return {
        "fashion-mnist": datasets.FashionMNIST,
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
    }[name]


def _has_batches(name: str, folder: Path) -> bool:
    """Whether the folder has all files as the publisher has them."""
    return all((folder / file).is_file() for file in _CIFAR_FILES[name])


def _published_cifar(name: str) -> Published:
    return Published(
        url=_CIFAR_PAGE,
        folders=(_CIFAR_FOLDERS[name], *([ARRAY_FOLDERS[name]] if name in ARRAY_FOLDERS else [])),
        is_complete=lambda folder: _has_batches(name, folder) or has_published_arrays(name, folder),
        download=lambda folder: _torchvision_class(name)(folder, download=True),
    )


_CIFAR = {name: _published_cifar(name) for name in _CIFAR_FILES}
_FASHION = Published(
    url="https://github.com/zalandoresearch/fashion-mnist",
    folders=("FashionMNIST/raw", "fashion-mnist"),
    is_complete=lambda folder: all(_idx_file(folder, stem).is_file() for stem in _FASHION_FILES),
    download=lambda folder: _torchvision_class("fashion-mnist")(folder, download=True),
    installed=Path("/usr/share/datasets/fashion-mnist"),
)
