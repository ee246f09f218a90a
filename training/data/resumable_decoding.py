"""Decodes the pictures of a split to a store, and goes on where a killed process had stopped."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.base.resources import usable_cores
from runtime.model.card import InputSpec
from training.data.decode_journal import Journal, Stored
from training.data.packed_image import PackedImage
from training.data.parquet_images import ParquetImage
from training.data.picture_store import PictureStore, Work
from training.data.source import Picture, Split
from training.data.worker_pool import in_processes

# With fewer images, processes take longer to start than they save.
_MIN_IMAGES_FOR_PROCESSES = 512
_CHUNK_IMAGES = 64
_CHUNK_BYTES = 16 << 20
_SAMPLE = 17  # pictures; the first one warms the decoder up and is not timed
_SYNC_SECONDS = 10.0


@dataclass
class Decoding:
    """The pictures of one split on their way to a store.

    Attributes:
        split: whose images are pictures.
        spec: how they are prepared.
        store: gets them.
        journal: knows which of them it has.
        remaining: the rows that are not decoded yet, in the order in which they will be.
        sample: the chunks that were decoded to see how long one takes.
    """

    split: Split
    spec: InputSpec
    store: PictureStore
    journal: Journal
    remaining: NDArray[np.int64]
    sample: list[Stored] = field(default_factory=list)
    _synced: float = field(default_factory=time.monotonic)

    @property
    def pictures(self) -> Sequence[Picture]:
        assert not isinstance(self.split.images, np.ndarray)
        return self.split.images

    def bytes_of_all(self) -> int:
        """How large all pictures of the split will be in the store."""
        return self.store.bytes_of(self.pictures, [*self.journal.done, *self.sample])

    def timed(self) -> float:
        """Decodes a few of the remaining pictures, and returns the seconds that each one took."""
        count = min(_SAMPLE, max(2, len(self.remaining) // 8))
        if len(self.remaining) < count:
            return 0.0
        places = np.arange(count)
        if not isinstance(self.pictures[0], ParquetImage):  # which is read from its beginning on
            places = np.linspace(0, len(self.remaining) - 1, count).astype(np.int64)
        rows = self.remaining[places]
        self.remaining = np.delete(self.remaining, places)
        self._sampled(rows[:1])
        start = time.perf_counter()
        self._sampled(rows[1:])
        return (time.perf_counter() - start) / (count - 1)

    def steps(self) -> Iterator[Stored]:
        """Decodes what remains, and passes on its chunks, also those of the sample."""
        yield from self.sample
        works = self._works()
        workers = min(usable_cores(), -(-len(self.remaining) // _CHUNK_IMAGES))
        if workers <= 1 or len(self.remaining) < _MIN_IMAGES_FOR_PROCESSES:
            arriving: Iterator[Stored] = (work() for work in works)
        else:
            arriving = in_processes(works, workers=workers, purpose="decodes images")
        for stored in arriving:
            yield self._kept(stored)
        self._sync()

    def _sampled(self, rows: NDArray[np.int64]) -> None:
        self.sample.append(self._kept(self._work(rows)()))

    def _kept(self, stored: Stored) -> Stored:
        taken = self.store.take(stored)
        self.journal.add(taken)
        if time.monotonic() - self._synced >= _SYNC_SECONDS:
            self._sync()
        return taken

    def _sync(self) -> None:
        self.store.sync()
        self.journal.mark_synced()
        self._synced = time.monotonic()

    def _works(self) -> Iterator[Work]:
        step = max(1, min(_CHUNK_IMAGES, _CHUNK_BYTES // (self.spec.size**2 * 3)))
        rows = iter(self.remaining)
        while chunk := list(islice(rows, step)):
            yield self._work(np.array(chunk, np.int64))

    def _work(self, rows: NDArray[np.int64]) -> Work:
        return self.store.work(rows, [self.pictures[row] for row in rows])


def open_decoding(
    split: Split, spec: InputSpec, store: PictureStore, journal: Path, *, key: str
) -> Decoding:
    """The decoding of a split, which goes on with what the journal and the store hold.

    Args:
        split: whose images are pictures, in files or inside of files.
        spec: how they are prepared.
        store: gets them.
        journal: the file of the journal.
        key: of the entry.
    """
    identity = hashlib.sha256(f"{key} {len(split.labels)}".encode())
    identity.update("\0".join(split.paths).encode("utf-8", "surrogateescape"))
    book = Journal(journal, identity.hexdigest())
    if not store.open(book.done) and book.done:
        book.close()
        journal.unlink()
        book = Journal(journal, identity.hexdigest())
    missing = np.ones(len(split.labels), np.bool_)
    for stored in book.done:
        missing[stored.decoded.rows] = False
    order = _reading_order(split.images)
    return Decoding(split, spec, store, book, order[missing[order]])


def _reading_order(images: Sequence[Picture] | NDArray[np.uint8]) -> NDArray[np.int64]:
    """The rows in the order in which they are decoded.

    Pictures in other files are read as they lie there, so that no part is read twice.
    """
    if any(isinstance(image, PackedImage) for image in images):
        places = [image.place if isinstance(image, PackedImage) else ("", 0) for image in images]
        return np.array(sorted(range(len(images)), key=places.__getitem__), dtype=np.int64)
    return np.arange(len(images), dtype=np.int64)
