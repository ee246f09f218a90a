"""Decodes images to the rows of a `.npy` file, in several processes.

The processes write their rows themselves. They get paths, and send back only which images are
broken. This module imports no torch, so that the processes start fast.
"""

import hashlib
import inspect
import multiprocessing
import os
import signal
import stat
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import ImageError, UserError
from runtime.base.resources import usable_cores
from runtime.images import (
    colours,
    image_formats,
    image_metadata,
    jpeg_files,
    other_files,
    png_files,
    tiff_files,
)
from runtime.model.card import InputSpec
from runtime.model.preprocess import DEFAULT_LIMITS, decode_image, fit_image
from training.data.dataset import row_digests
from training.data.file_states import DIGEST_BYTES
from training.data.packed_image import PackedImage
from training.data.source import Picture, Split
from training.quality.exact_twins import PICTURE, Pictures, picture_of, pictures_of

# With fewer images, processes take longer to start than they save.
_MIN_IMAGES_FOR_PROCESSES = 512
# Arrays of small images are resized faster here than they are sent to another process.
_MAX_SIZE_IN_PROCESS = 64
_CHUNK_IMAGES = 64
_CHUNK_BYTES = 16 << 20
_DECODING_MODULES = (
    *(colours, image_formats, image_metadata, jpeg_files, other_files, png_files, tiff_files),
    sys.modules[decode_image.__module__],
    sys.modules[__name__],
)


@dataclass(frozen=True)
class Broken:
    """An image that cannot be decoded: its row, and a message that names it."""

    row: int
    message: str


@dataclass(frozen=True)
class Chunk:
    """Images that one process decodes to rows of one file.

    `images` are files, or uint8 (N, H, W, 3). They are the rows `rows`, int64 (N,), of the array
    that begins `offset` bytes into the file.
    """

    file: Path
    offset: int
    rows: NDArray[np.int64]
    images: list[Picture] | NDArray[np.uint8]
    spec: InputSpec


@dataclass(frozen=True)
class Decoded:
    """What a chunk gave: how many images it had, their digests, and which of them are broken.

    `sha256` is uint8 (N, 32), for the rows `rows`: of the bytes of each image's file, or of its
    pixels where it is a row of an array; zeros where it cannot be read.
    `pictures` are the check values and sizes of the pictures that were decoded, (N,); zeros for
    those that are broken. `warnings` are what the decoder warned of, and of how many images.
    """

    images: int
    broken: list[Broken]
    rows: NDArray[np.int64]
    sha256: NDArray[np.uint8]
    pictures: Pictures
    warnings: Counter[str] = field(default_factory=Counter)


def decoding_code() -> str:
    """The text of the code that decides the values of decoded images: this module and runtime's."""
    sources = [inspect.getsource(module) for module in _DECODING_MODULES]
    return "".join([*sources, other_files.heic_version()])


def decode_split(split: Split, spec: InputSpec, file: Path) -> Iterator[Decoded]:
    """Writes the images as uint8 (N, size, size, 3) to the `.npy` file, chunk by chunk.

    Rows of broken images stay black.

    Raises:
        UserError: if the system ended one of the processes.
    """
    shape = (len(split.images), spec.size, spec.size, 3)
    rows = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
    offset = int(rows.offset)
    del rows
    chunks = list(_chunks(split, spec, file, offset))
    workers = min(usable_cores(), len(chunks))
    small = isinstance(split.images, np.ndarray) and spec.size <= _MAX_SIZE_IN_PROCESS
    if small or workers == 1 or len(split.images) < _MIN_IMAGES_FOR_PROCESSES:
        yield from map(decode_chunk, chunks)
    else:
        yield from _in_processes(chunks, workers)


def decode_chunk(chunk: Chunk) -> Decoded:
    """Decodes the images of one chunk and writes their rows."""
    images, spec = chunk.images, chunk.spec
    broken: list[Broken] = []
    digests = np.zeros((len(images), DIGEST_BYTES), np.uint8)
    warnings: Counter[str] = Counter()
    if isinstance(images, np.ndarray):
        digests = row_digests(images)
    if isinstance(images, np.ndarray) and _is_input(images, spec):
        rows, pictures = images, pictures_of(images)
    else:
        pictures = np.zeros(len(images), dtype=PICTURE)
        rows = np.zeros((len(images), spec.size, spec.size, 3), dtype=np.uint8)
        for index, image in enumerate(images):
            row = int(chunk.rows[index])
            try:
                source = _bytes_of(image) if isinstance(image, (Path, PackedImage)) else image
                if isinstance(source, bytes):
                    digests[index] = np.frombuffer(hashlib.sha256(source).digest(), np.uint8)
                name = _name(image, row)
                decoded = decode_image(
                    source, spec, name=name, warn=lambda words: warnings.update([words])
                )
                pictures[index] = picture_of(decoded)
                rows[index] = fit_image(decoded, spec)
            except ImageError as error:
                broken.append(Broken(row, str(error)))
    _write(chunk, rows)
    return Decoded(len(images), broken, chunk.rows, digests, pictures, warnings)


def _write(chunk: Chunk, images: NDArray[np.uint8]) -> None:
    """Writes neighbouring rows at once."""
    breaks = np.flatnonzero(np.diff(chunk.rows) != 1) + 1
    parts = zip(np.split(chunk.rows, breaks), np.split(images, breaks), strict=True)
    with chunk.file.open("r+b") as file:
        for rows, part in parts:
            file.seek(chunk.offset + int(rows[0]) * part[0].nbytes)
            file.write(np.ascontiguousarray(part).data)


def _bytes_of(image: Picture) -> bytes | Path:
    """The picture's bytes. A file that cannot be read is left to the decoder, which says why."""
    if isinstance(image, PackedImage):
        return image.read()
    try:
        state = image.stat()
        if not stat.S_ISREG(state.st_mode) or state.st_size > DEFAULT_LIMITS.max_bytes:
            return image
        return image.read_bytes()
    except (OSError, ValueError):
        return image


def _is_input(images: NDArray[np.uint8], spec: InputSpec) -> bool:
    """Whether preprocessing would not change the images."""
    return images.shape[1:3] == (spec.size, spec.size) and spec.crop == spec.resize


def _name(image: Picture | NDArray[np.uint8], row: int) -> str:
    if isinstance(image, PackedImage):
        return str(image.path)
    return str(image) if isinstance(image, Path) else f"image {row}"


def _chunks(split: Split, spec: InputSpec, file: Path, offset: int) -> Iterator[Chunk]:
    row_bytes = spec.size * spec.size * 3
    step = max(1, min(_CHUNK_IMAGES, _CHUNK_BYTES // row_bytes))
    images = split.images
    order = _reading_order(images)
    for first in range(0, len(images), step):
        rows = order[first : first + step]
        some = (
            images[first : first + step]
            if isinstance(images, np.ndarray)
            else [images[row] for row in rows]
        )
        yield Chunk(file=file, offset=offset, rows=rows, images=some, spec=spec)


def _reading_order(images: Sequence[Picture] | NDArray[np.uint8]) -> NDArray[np.int64]:
    """The rows in the order in which they are decoded.

    Pictures in other files are read as they lie there, so that no part is read twice.
    """
    order = range(len(images))
    if len(images) and isinstance(images[0], PackedImage):
        places = [image.place for image in images if isinstance(image, PackedImage)]
        return np.array(sorted(order, key=places.__getitem__), dtype=np.int64)
    return np.arange(len(images), dtype=np.int64)


def _in_processes(chunks: list[Chunk], workers: int) -> Iterator[Decoded]:
    # Spawned, not forked: a fork cannot use the parent's threads (torch) or its CUDA context.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_parent)
    try:
        for finished in as_completed([pool.submit(decode_chunk, chunk) for chunk in chunks]):
            yield finished.result()
    except BrokenProcessPool as error:
        raise UserError(
            f"a process that decodes images was killed, perhaps for want of memory ({workers} "
            "ran); close other programs and start again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """Makes a worker ignore Ctrl-C, which the parent handles, and end if the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
