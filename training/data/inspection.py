"""What an inspection finds in the images of a data set: copies of each other, and blank pictures.

It is kept in the cache, so that only the first start with some data takes time for it.
"""

import contextlib
import hashlib
import inspect
import io
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.base.files import cache_root, write_atomic
from training.data.dataset import Dataset, places_of
from training.data.loading_progress import track
from training.quality import exact_twins, near_twins, thumbnails, twins
from training.quality.exact_twins import BLANK_SPAN, Pictures, exact_groups, pictures_of
from training.quality.thumbnails import empty_thumbnails, fill_thumbnails
from training.quality.twins import TEST, TRAIN, VALIDATION, Twins, fill_near, twins_without_near

_MODULES = (exact_twins, near_twins, thumbnails, twins)
_MIN_SHOWN = 3000  # fewer images are compared before anybody waits


@dataclass(frozen=True)
class Inspection:
    """What was found in N images: the training images, the validation images, the test images.

    Attributes:
        twins: the copies, in rows of that order.
        span: uint8 (N,), how far apart the darkest and the brightest part of a picture are.
        pictures: (N,), of what was decoded. The sizes of a large JPEG may be those of a reduced
            one, but not below the size that the data set needs.
    """

    twins: Twins
    span: NDArray[np.uint8]
    pictures: Pictures

    @property
    def blank(self) -> NDArray[np.bool_]:
        """Which pictures are of one colour, or nearly: bool (N,)."""
        return self.span <= BLANK_SPAN


def inspect_images(dataset: Dataset, *, progress: bool) -> Inspection:
    """Compares all images with each other, or takes from the cache what that has found."""
    pictures = np.concatenate(
        [
            pictures_of(images) if known is None else known
            for images, known in (
                (dataset.train_images, dataset.train_pictures),
                (dataset.test_images, dataset.test_pictures),
            )
        ]
    )
    splits = _splits(dataset)
    labels = np.concatenate([dataset.train_labels, dataset.test_labels])
    file = _cache_file(dataset, pictures, splits, labels)
    # A file that is damaged raises errors of many classes: all is compared again.
    with contextlib.suppress(Exception):
        return _kept_in(file, splits, labels, pictures)
    small = empty_thumbnails(len(labels))
    show = progress and len(labels) >= _MIN_SHOWN
    # What the parts of a training image outside of a test image's region show does not count.
    zoom = dataset.input.crop / dataset.input.resize if _has_margin(dataset) else 1.0
    found = twins_without_near(splits, labels, np.zeros(len(labels), np.int64))

    first = len(dataset.train_labels)
    trained, tested = None, None
    if dataset.input.fit == "letterbox":  # bars are no part of a picture
        places = places_of(pictures, dataset.input)
        trained, tested = places[:first], places[first:]
    made_small = chain(
        fill_thumbnails(small, dataset.train_images, zoom=zoom, places=trained),
        fill_thumbnails(small, dataset.test_images, first=first, places=tested),
    )
    for _ in track(made_small, total=len(labels), what=f"looking at {dataset.name}", show=show):
        pass
    blank = small.span <= BLANK_SPAN
    found.groups[:] = exact_groups(pictures, blank)
    compared = fill_near(found, small, blank)
    seen = int((~blank).sum())
    for _ in track(compared, total=seen, what=f"comparing {dataset.name}", show=show):
        pass
    content = io.BytesIO()
    np.savez(
        content, groups=found.groups, near=found.near, distance=found.distance, span=small.span
    )
    with contextlib.suppress(OSError):  # without a cache, they are compared again the next time
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, content.getvalue())
    return Inspection(found, small.span, pictures)


def _kept_in(
    file: Path, splits: NDArray[np.int64], labels: NDArray[np.int64], pictures: Pictures
) -> Inspection:
    with np.load(file) as kept:
        twins_kept = Twins(splits, labels, kept["groups"], kept["near"], kept["distance"])
        return Inspection(twins_kept, kept["span"], pictures)


def _splits(dataset: Dataset) -> NDArray[np.int64]:
    trained = len(dataset.train_labels) - dataset.validation_images
    counts = [trained, dataset.validation_images, len(dataset.test_labels)]
    return np.repeat(np.array([TRAIN, VALIDATION, TEST], dtype=np.int64), counts)


def _has_margin(dataset: Dataset) -> bool:
    """Whether training images show more than test images do."""
    stored: int = dataset.train_images.shape[1]
    return stored > dataset.input.size


def _cache_file(
    dataset: Dataset, pictures: Pictures, splits: NDArray[np.int64], labels: NDArray[np.int64]
) -> Path:
    """Named after a digest of all that decides what is found, and of the code that finds it."""
    key = hashlib.sha256("".join(inspect.getsource(module) for module in _MODULES).encode())
    key.update(f"{dataset.input} {dataset.train_images.shape}".encode())
    for part in (pictures, splits, labels):
        key.update(part.tobytes())
    name = f"{dataset.name}-{dataset.input.size}-{key.hexdigest()[:16]}.npz"
    return cache_root() / "checks" / name
