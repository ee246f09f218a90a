"""The images of a bundle: those that verify a file, and those that its threshold is found with.

Neither torch nor the data set is needed to read them.
"""

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import BundleError
from runtime.model.card import HOLDOUT_FILE, Card

VALIDATION_FILE = "validation.npz"  # of a run, and of its bundle
MAX_VALIDATION_IMAGES = 2000
_MAX_VALIDATION_BYTES = 64 << 20  # 445 images of 224 px: a bundle has to fit on a device
_SEED = 0
_EXPORT_AGAIN = "export the run again with `python export/run.py`"
T = TypeVar("T")


@dataclass(frozen=True)
class Labelled:
    """Test images of which the right answers are known.

    Attributes:
        images: uint8 RGB (N, size, size, 3).
        labels: int64 (N,).
        probabilities: what the trained student gives for them in torch, float32 (N, num_classes).
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class KeptApart:
    """Validation images that have chosen nothing, and the answers to those that have.

    Attributes:
        images: uint8 RGB (N, size, size, 3), those that are kept apart.
        labels: their classes, int64 (N,).
        rows: which of the training images they are, int64 (N,).
        choosing_confidence: the student's largest probability for each of the other validation
            images, which chose epoch and temperature, float32 (M,).
        choosing_right: whether its answer to them is right, bool (M,).
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]
    choosing_confidence: NDArray[np.float32]
    choosing_right: NDArray[np.bool_]


def read_holdout(bundle: Path, card: Card) -> Labelled:
    """Reads `holdout.npz` of the folder `bundle`, whose model has the `card`.

    Raises:
        BundleError: the file is missing or damaged, or its images are not those of such a model.
    """

    def labelled(arrays: np.lib.npyio.NpzFile) -> Labelled:
        found = Labelled(arrays["images"], arrays["labels"], arrays["probabilities"])
        _check_holdout(found, card)
        return found

    return _read(bundle / HOLDOUT_FILE, labelled)


def read_validation(folder: Path, *, remedy: str = _EXPORT_AGAIN) -> KeptApart | None:
    """Reads `validation.npz` of a run or a bundle; None if it has none.

    `remedy` says what helps if it is damaged.

    Raises:
        BundleError: the file is damaged.
    """

    def kept(arrays: np.lib.npyio.NpzFile) -> KeptApart:
        found = KeptApart(*(arrays[name] for name in KeptApart.__dataclass_fields__))
        _check_validation(found)
        return found

    path = folder / VALIDATION_FILE
    return _read(path, kept, remedy) if path.exists() else None


def _check_holdout(found: Labelled, card: Card) -> None:
    """Raises ValueError if the images, labels and answers do not belong to each other or `card`."""
    count, size = len(found.images), card.input.size
    expected = (count, size, size, 3), (count,), (count, card.num_classes)
    shapes = found.images.shape, found.labels.shape, found.probabilities.shape
    if shapes != expected or count == 0:
        raise ValueError(
            f"the held-out test images, labels and answers have the shapes {shapes}, the card "
            f"needs {expected}, with at least one image"
        )
    kinds = found.images.dtype.name, found.labels.dtype.kind, found.probabilities.dtype.kind
    if kinds != ("uint8", "i", "f"):
        raise ValueError(
            f"the held-out test images are {found.images.dtype}, their labels "
            f"{found.labels.dtype} and answers {found.probabilities.dtype}; expected uint8, "
            "integers and floating point numbers"
        )
    if not 0 <= found.labels.min() <= found.labels.max() < card.num_classes:
        raise ValueError(
            f"the labels of the held-out test images go from {found.labels.min()} to "
            f"{found.labels.max()}, the card has {card.num_classes} classes"
        )


def _check_validation(found: KeptApart) -> None:
    """Raises ValueError if an image lacks its label or row, or an answer whether it is right."""
    apart = {len(found.images), len(found.labels), len(found.rows)}
    if len(apart) > 1 or found.choosing_confidence.shape != found.choosing_right.shape:
        raise ValueError("its arrays are of different lengths")


def most_for_validation(image_size: int) -> int:
    """How many images of `image_size` px the 64 MiB of `validation.npz` hold."""
    return _MAX_VALIDATION_BYTES // (3 * image_size**2)


def drawn_for_validation(
    rows: NDArray[np.int64], *, image_size: int, most: int = MAX_VALIDATION_IMAGES
) -> NDArray[np.int64]:
    """Those of the `rows` (N,) whose images `validation.npz` holds: at most `most`, and 64 MiB.

    They are drawn at random and not class by class, because the bound of a threshold holds for
    images that are mixed as these are.
    """
    most = min(most, most_for_validation(image_size))
    return np.sort(np.random.default_rng(_SEED).permutation(rows)[:most])


def validation_bytes(kept: KeptApart) -> bytes:
    """The content of `validation.npz`."""
    file = io.BytesIO()
    np.savez_compressed(file, **vars(kept))
    return file.getvalue()


def _read(path: Path, take: Callable[[np.lib.npyio.NpzFile], T], remedy: str = _EXPORT_AGAIN) -> T:
    """What `take` finds in an archive of arrays.

    Raises:
        BundleError: the file is missing or damaged.
    """
    try:
        file = io.BytesIO(path.read_bytes())
        zipfile.ZipFile(file).close()  # a file that is no zip: np.load would call it a pickle
        with np.load(file, allow_pickle=False) as arrays:
            return take(arrays)
    except Exception as error:  # zipfile, zlib and numpy have errors of many classes for damage
        raise BundleError(f"{path} cannot be read ({error}); {remedy}") from error
