"""Pictures that are kept as they came, and decoded when they are asked for.

They are read as an array is: by a row's number, a slice, or an array of numbers. Many at once are
decoded by processes, which start at the first such call and write the pixels to shared memory.
"""

import atexit
import os
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import ImageError, UserError
from runtime.base.resources import usable_cores
from runtime.model.card import InputSpec
from runtime.model.preprocess import decode_image, fit_image
from training.data.worker_pool import killed_worker, open_pool

_MIN_FOR_PROCESSES = 24  # pictures; fewer are there before the processes have been told
_PIECE = 8  # pictures that a process decodes at once
_SHARED_BYTES = 32 << 20  # containers often have 64 MiB of shared memory
_LOCAL_PROCESSES = "LOCAL_WORLD_SIZE"  # torchrun: how many trainings share the cores

Places = NDArray[np.uint64]


class EncodedImages:
    """Images uint8 (N, size, size, 3) whose files' bytes lie one after the other in one file."""

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, file: Path, places: Places, spec: InputSpec) -> None:
        """Takes the file, where each picture begins and ends in it (N, 2), and what it becomes."""
        self._file, self._places, self._spec = file, places, spec

    def __len__(self) -> int:
        return len(self._places)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """That of the decoded images."""
        return len(self), self._spec.size, self._spec.size, 3

    @property
    def nbytes(self) -> int:
        """What the decoded images would take."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __getitem__(self, rows: int | np.integer | slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """One image (size, size, 3), or those of a slice or of row numbers."""
        if isinstance(rows, int | np.integer):
            image: NDArray[np.uint8] = self.take(np.array([range(len(self))[rows]]))[0]
            return image
        return self.take(np.arange(len(self))[rows])

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[row] for row in range(len(self)))

    def subset(self, rows: NDArray[np.int64]) -> "EncodedImages":
        """Those of the rows; the file is shared."""
        return EncodedImages(self._file, self._places[rows], self._spec)

    def take(
        self, rows: NDArray[np.int64], out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """The images of the rows, written to `out` if it is given.

        Raises:
            UserError: if a picture cannot be decoded any more, or a process was killed.
        """
        if out is None:
            out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        places = self._places[rows]
        if len(rows) < _MIN_FOR_PROCESSES or usable_cores() == 1:
            decode_places(self._file, places, self._spec, out)
        else:
            _decoders.decode(self._file, places, self._spec, out)
        return out


def decode_places(file: Path, places: Places, spec: InputSpec, out: NDArray[np.uint8]) -> None:
    """Decodes the pictures at these bytes of the file to `out`, uint8 (N, size, size, 3).

    Raises:
        UserError: if one cannot be decoded. It could be when it was stored.
    """
    with file.open("rb", buffering=0) as stream:
        for image, (start, end) in zip(out, places.tolist(), strict=True):
            content = os.pread(stream.fileno(), end - start, start)
            name = f"{file}, byte {start}"
            try:
                image[:] = fit_image(decode_image(content, spec, name=name), spec)
            except ImageError as error:
                raise UserError(
                    f"{error}: the data cache is damaged; --refresh makes it anew"
                ) from error


class _Decoders:
    """Processes, and the shared memory through which they hand over what they have decoded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None
        self._memory: SharedMemory | None = None
        self._workers = 1
        self._ready: Future[None] = Future()  # done when a process has started

    def decode(self, file: Path, places: Places, spec: InputSpec, out: NDArray[np.uint8]) -> None:
        """Decodes the pictures at these bytes of the file to `out`."""
        with self._lock:  # of a training and of what is read ahead for it, one at a time
            pool, memory = self._started(out[0].nbytes)
            if not self._ready.done():  # the first batch need not wait for the processes
                decode_places(file, places, spec, out)
                return
            piece_bytes = _PIECE * out[0].nbytes
            free = list(range(memory.size // piece_bytes))
            pending: dict[Future[None], tuple[int, slice]] = {}
            coming = iter(range(0, len(out), _PIECE))
            try:
                self._ready.result()
                while True:
                    while free and (first := next(coming, None)) is not None:
                        part, slot = slice(first, min(first + _PIECE, len(out))), free.pop()
                        offset = slot * piece_bytes
                        work = (memory.name, offset, file, places[part], spec)
                        pending[pool.submit(_decode_to_memory, *work)] = (slot, part)
                    if not pending:
                        return
                    for future in wait(pending, return_when=FIRST_COMPLETED).done:
                        slot, part = pending.pop(future)
                        future.result()
                        shape = out[part].shape
                        out[part] = _view(memory, slot * piece_bytes, shape)
                        free.append(slot)
            except BrokenProcessPool as error:
                self._close()
                raise killed_worker("decodes images", self._workers) from error
            finally:
                wait(pending)  # they write to slots that the next call uses

    def _started(self, image_bytes: int) -> tuple[ProcessPoolExecutor, SharedMemory]:
        if self._pool is None:
            self._workers = max(1, usable_cores() // int(os.environ.get(_LOCAL_PROCESSES) or 1))
            self._pool = open_pool(self._workers)
            self._ready = self._pool.submit(_decode_nothing)
            atexit.register(self._close)
        slots = max(2, min(2 * self._workers, _SHARED_BYTES // (_PIECE * image_bytes)))
        size = slots * _PIECE * image_bytes
        if self._memory is None or self._memory.size < size:
            self._free_memory()
            self._memory = SharedMemory(create=True, size=size)
        return self._pool, self._memory

    def _free_memory(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory.unlink()
            self._memory = None

    def _close(self) -> None:
        atexit.unregister(self._close)
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        self._free_memory()


_decoders = _Decoders()


def _decode_nothing() -> None:
    """Runs in a process, when it has imported this module."""


def _decode_to_memory(name: str, offset: int, file: Path, places: Places, spec: InputSpec) -> None:
    """Runs in a process."""
    out = _view(_attached(name), offset, (len(places), spec.size, spec.size, 3))
    decode_places(file, places, spec, out)


def _view(memory: SharedMemory, offset: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = np.ndarray(shape, np.uint8, memory.buf, offset)
    return pixels


@lru_cache(maxsize=1)
def _attached(name: str) -> SharedMemory:
    return SharedMemory(name=name)
