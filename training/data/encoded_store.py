"""Keeps the pictures of a split as the bytes of their files, or as JPEG files made of them."""

import io
import os
import shutil
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime.model.card import InputSpec
from runtime.model.preprocess import DEFAULT_LIMITS
from training.data import decode
from training.data.cache_room import sync_file
from training.data.decode import Broken, Chunk, Decoded
from training.data.decode_journal import Stored
from training.data.encoded_images import EncodedImages
from training.data.packed_image import PackedImage, TarImage, ZipImage
from training.data.picture_store import Work
from training.data.source import Picture

_HOLE = Path(os.devnull)


@dataclass(frozen=True)
class HeldImage(PackedImage):
    """A picture whose bytes were read already, so that they are read once."""

    content: bytes

    @property
    def place(self) -> tuple[str, int]:
        return "", 0

    def read(self) -> bytes:
        """The bytes."""
        return self.content


class EncodedStore:
    """One file of all pictures, in the order in which they were decoded.

    The processes write their pictures to files of their own, a chunk to each, which are then moved
    to the end of that file.
    """

    def __init__(self, file: Path, count: int, spec: InputSpec, quality: int | None) -> None:
        """Takes the file, the number of pictures, and the quality of the JPEGs that are made.

        None: the pictures stay as they are.
        """
        self._file, self._spec, self._quality = file, spec, quality
        self._parts = file.with_suffix(".parts")
        self._places = np.zeros((count, 2), np.uint64)
        self._end = 0

    def open(self, done: Sequence[Stored]) -> bool:
        """Goes on behind the pictures of these chunks."""
        self._parts.mkdir(exist_ok=True)
        for part in self._parts.iterdir():
            part.unlink()
        end = max((int(stored.places.max()) for stored in done), default=0)
        whole = bool(done) and self._file.exists() and self._file.stat().st_size >= end
        if not whole:
            self._file.write_bytes(b"")
            return False
        os.truncate(self._file, end)
        self._end = end
        for stored in done:
            self._places[stored.decoded.rows] = stored.places
        return True

    def work(self, rows: NDArray[np.int64], images: list[Picture]) -> Work:
        """Decodes the pictures, to know that they can be decoded, and writes their bytes."""
        part = self._parts / str(rows[0])
        return partial(_keep, images, rows, part, self._spec, self._quality)

    def take(self, stored: Stored) -> Stored:
        """Moves the bytes of a chunk to the end of the file."""
        assert stored.part is not None
        with stored.part.open("rb") as part, self._file.open("r+b") as file:
            file.seek(self._end)
            shutil.copyfileobj(part, file, 1 << 20)
        stored.part.unlink()
        places = stored.places + np.uint64(self._end)
        self._end = max(self._end, int(places.max()))
        self._places[stored.decoded.rows] = places
        return Stored(stored.decoded, places)

    def sync(self) -> None:
        """Waits until the disk holds all that was moved."""
        sync_file(self._file)

    def bytes_of(self, images: Sequence[Picture], sample: Sequence[Stored]) -> int:
        """The bytes that are stored, by a sample where the pictures do not state their sizes."""
        stated = None if self._quality else _stated_size(images)
        if stated is not None:
            return stated
        count = sum(len(stored.places) for stored in sample)
        stored = sum(int(np.diff(chunk.places.astype(np.int64)).sum()) for chunk in sample)
        return stored * len(images) // count if count else 0

    def images(self) -> NDArray[np.uint8]:
        """The pictures that are stored; a broken one cannot be read."""
        return open_encoded(self._file, self._places, self._spec)

    def finish(self, folder: Path, kept: NDArray[np.int64]) -> dict[str, Path]:
        """The file as it is, and in `folder` the places of the rows that are kept."""
        shutil.rmtree(self._parts)
        places = places_file(folder / self._file.name)
        np.save(places, self._places[kept])
        return {self._file.name: self._file, places.name: places}


def places_file(file: Path) -> Path:
    """The file that says where each picture of `file` begins and ends: uint64 (N, 2)."""
    return file.with_name(file.stem.removesuffix("images") + "places.npy")


def open_encoded(file: Path, places: NDArray[np.uint64], spec: InputSpec) -> NDArray[np.uint8]:
    """The pictures of the file; whoever reads rows of an array can read them."""
    return cast("NDArray[np.uint8]", EncodedImages(file, places, spec))


def _stated_size(images: Sequence[Picture]) -> int | None:
    """The bytes of all pictures, by their files and archives; None where a table holds some."""
    total = 0
    for image in images:
        if isinstance(image, TarImage):
            total += image.size
        elif isinstance(image, ZipImage):
            total += image.file_size
        elif isinstance(image, Path):
            total += image.stat().st_size if image.is_file() else 0
        else:
            return None
    return total


def _keep(
    images: Sequence[Picture],
    rows: NDArray[np.int64],
    part: Path,
    spec: InputSpec,
    quality: int | None,
) -> Stored:
    """Runs in a process: one picture after the other is read, decoded and written."""
    chunks: list[Decoded] = []
    broken: list[Broken] = []
    warnings: Counter[str] = Counter()
    places = np.zeros((len(rows), 2), np.uint64)
    with part.open("wb") as file:
        for index, image in enumerate(images):
            held = _held(image)
            chunk, pixels = _decoded(held, spec, part if quality else None)
            warnings.update(chunk.warnings)
            chunks.append(chunk)
            places[index] = file.tell()
            if chunk.broken or not isinstance(held, HeldImage):
                message = chunk.broken[0].message if chunk.broken else f"{image}: cannot be read"
                broken.append(Broken(int(rows[index]), message))
                continue
            file.write(held.content if pixels is None else _jpeg(pixels, quality))
            places[index, 1] = file.tell()
    decoded = Decoded(
        images=len(rows),
        broken=broken,
        rows=rows,
        sha256=np.concatenate([chunk.sha256 for chunk in chunks]),
        pictures=np.concatenate([chunk.pictures for chunk in chunks]),
        warnings=warnings,
    )
    return Stored(decoded, places, part)


def _decoded(
    image: Picture, spec: InputSpec, part: Path | None
) -> tuple[Decoded, NDArray[np.uint8] | None]:
    """What decoding gives, and with `part` the pixels, uint8 (size, size, 3)."""
    row = np.zeros(1, np.int64)
    if part is None:
        return decode.decode_chunk(Chunk(_HOLE, 0, row, [image], spec)), None
    scratch = part.with_name(f"{part.name}.pixels")
    scratch.touch()
    chunk = decode.decode_chunk(Chunk(scratch, 0, row, [image], spec))
    pixels = np.fromfile(scratch, np.uint8).reshape(spec.size, spec.size, 3)
    scratch.unlink()
    return chunk, pixels


def _held(image: Picture) -> Picture:
    """The picture with its bytes; as it is where they cannot be read: decoding says why."""
    try:
        if isinstance(image, PackedImage):
            return HeldImage(image.path, image.read())
        state = image.stat()
        if stat.S_ISREG(state.st_mode) and state.st_size <= DEFAULT_LIMITS.max_bytes:
            return HeldImage(image, image.read_bytes())
    except (OSError, ValueError):
        pass
    return image


def _jpeg(pixels: NDArray[np.uint8], quality: int | None) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()
