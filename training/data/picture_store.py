"""Where the pictures of a split go when they are decoded: to the rows of an array in a file.

`encoded_store` keeps their own bytes instead.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.model.card import InputSpec
from training.data import decode
from training.data.cache_room import sync_file
from training.data.decode import Chunk
from training.data.decode_journal import NO_PLACES, Stored
from training.data.row_files import copy_rows
from training.data.source import Picture

Work = Callable[[], Stored]


class PictureStore(Protocol):
    """Keeps the pictures of one split. The processes that decode do most of its work."""

    def open(self, done: Sequence[Stored]) -> bool:
        """Goes on after the chunks that are done; False: they are lost, and all begins anew."""

    def work(self, rows: NDArray[np.int64], images: list[Picture]) -> Work:
        """What a process is to do: decode the pictures, and store them as these rows."""

    def take(self, stored: Stored) -> Stored:
        """Brings what a process has stored to its place, and says where that is."""

    def sync(self) -> None:
        """Waits until the disk holds all that was taken."""

    def bytes_of(self, images: Sequence[Picture], sample: Sequence[Stored]) -> int:
        """How large the pictures will be in the store, by a sample of them where need be."""

    def images(self) -> NDArray[np.uint8]:
        """All images of the split, uint8 (N, size, size, 3), when they are stored."""

    def finish(self, folder: Path, kept: NDArray[np.int64]) -> dict[str, Path]:
        """The files of the entry by their names: of the rows `kept`, which are ascending.

        They lie where they are to be moved from, or in `folder` where they had to be written.
        """


class ArrayStore:
    """uint8 (N, size, size, 3) in a `.npy` file, in which each process writes its own rows."""

    def __init__(self, file: Path, count: int, spec: InputSpec) -> None:
        self._file, self._spec = file, spec
        self._shape = (count, spec.size, spec.size, 3)
        self._offset = 0

    def open(self, done: Sequence[Stored]) -> bool:
        """Goes on with the file, or makes one; rows that nothing is written to stay black."""
        whole = False
        if done and self._file.exists():
            rows = np.load(self._file, mmap_mode="r")
            whole = rows.shape == self._shape
        if not whole:
            rows = np.lib.format.open_memmap(
                self._file, mode="w+", dtype=np.uint8, shape=self._shape
            )
        self._offset = int(rows.offset)
        return whole

    def work(self, rows: NDArray[np.int64], images: list[Picture]) -> Work:
        """Decodes the pictures to their rows."""
        return partial(_to_rows, Chunk(self._file, self._offset, rows, images, self._spec))

    def take(self, stored: Stored) -> Stored:
        """The rows are where they belong."""
        return stored

    def sync(self) -> None:
        """Waits until the disk holds all that was written."""
        sync_file(self._file)

    def bytes_of(self, images: Sequence[Picture], sample: Sequence[Stored]) -> int:
        """The bytes of the array's rows."""
        return len(images) * int(np.prod(self._shape[1:]))

    def images(self) -> NDArray[np.uint8]:
        """The rows, as a read-only memory map."""
        rows: NDArray[np.uint8] = np.load(self._file, mmap_mode="r")
        return rows

    def finish(self, folder: Path, kept: NDArray[np.int64]) -> dict[str, Path]:
        """The file as it is, or a copy in `folder` where rows of it are left out."""
        if len(kept) == self._shape[0]:
            return {self._file.name: self._file}
        copy_rows(self.images(), folder / self._file.name, kept)
        return {self._file.name: folder / self._file.name}


def _to_rows(chunk: Chunk) -> Stored:
    return Stored(decode.decode_chunk(chunk), NO_PLACES)
