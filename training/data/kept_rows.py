"""A data set with some of its training images: their rows are copied to a file of the cache."""

import hashlib
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from runtime.base.files import atomic_folder, cache_root
from training.data.block_checksums import Checksums, checksums_of, verify_file
from training.data.cache_room import check_space
from training.data.dataset import Dataset, row_digests
from training.data.encoded_images import EncodedImages
from training.data.loading_progress import report
from training.data.locks import locked
from training.data.row_files import copy_rows

_IMAGES = "train_images.npy"
_CHECKSUMS = "checksums.json"


def with_rows(dataset: Dataset, rows: NDArray[np.int64]) -> Dataset:
    """`dataset` with the training images of the ascending `rows`, int64; all else stays.

    Raises:
        UserError: if the cache cannot be written, or the disk has no room.
    """
    digests = dataset.train_sha256
    if digests is None:
        digests = row_digests(dataset.train_images, show=True)
    images = dataset.train_images
    if isinstance(images, EncodedImages):
        images = images.subset(rows)  # nothing is copied: the file is shared
    else:
        images = _copied(dataset, digests, rows)
    groups, pictures = dataset.train_groups, dataset.train_pictures
    return replace(
        dataset,
        train_images=images,
        train_labels=dataset.train_labels[rows],
        train_paths=tuple(dataset.train_paths[row] for row in rows) if dataset.train_paths else (),
        train_groups=None if groups is None else groups[rows],
        train_sha256=digests[rows],
        train_pictures=None if pictures is None else pictures[rows],
    )


def _copied(
    dataset: Dataset, digests: NDArray[np.uint8], rows: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """The rows in a file of their own, as a read-only memory map."""
    key = hashlib.sha256(digests.tobytes())
    key.update(rows.tobytes())
    key.update(f"{dataset.input} {dataset.train_images.shape}".encode())
    name = f"{dataset.name}-{dataset.input.size}-{key.hexdigest()[:16]}-kept"
    folder = cache_root() / "arrays" / name
    if not _is_whole(folder):
        with locked(folder):
            if not _is_whole(folder):  # another process may have written it meanwhile
                _write(folder, dataset.train_images, rows)
    copied: NDArray[np.uint8] = np.load(folder / _IMAGES, mmap_mode="r")
    return copied


def _write(folder: Path, images: NDArray[np.uint8], rows: NDArray[np.int64]) -> None:
    with atomic_folder(folder) as temporary:
        check_space(temporary, len(rows) * images[0].nbytes)
        copy_rows(images, temporary / _IMAGES, rows)
        checksums = checksums_of(temporary / _IMAGES)
        (temporary / _CHECKSUMS).write_bytes(msgspec.json.encode(checksums))


def _is_whole(folder: Path) -> bool:
    if not folder.exists():
        return False
    try:
        content = (folder / _CHECKSUMS).read_bytes()
        verify_file(folder / _IMAGES, msgspec.json.decode(content, type=Checksums))
    except (OSError, ValueError) as error:  # msgspec.DecodeError is a ValueError
        report(f"the data cache {folder} is damaged ({error}); it is made again")
        return False
    return True
