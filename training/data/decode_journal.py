"""Which pictures of a split are decoded already: a file that outlives a killed process.

Each finished chunk is a record at the end of the file. A kill loses no record, because the system
writes what it was given. A crash of the whole machine may lose pixels whose record is on the disk;
so, after another start of the machine, only the records before the last synced mark count.
"""

import os
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from training.data.decode import Broken, Decoded
from training.data.file_states import DIGEST_BYTES
from training.quality.exact_twins import PICTURE

_BOOT = Path("/proc/sys/kernel/random/boot_id")  # another one after each start of Linux
_FRAME = struct.Struct("<II")  # length of a record, and its CRC-32
NO_PLACES: NDArray[np.uint64] = np.zeros((0, 2), np.uint64)


@dataclass(frozen=True)
class Stored:
    """A chunk of pictures that is decoded and stored.

    `places` are the bytes at which each picture begins and ends in a file of encoded pictures,
    uint64 (N, 2); (0, 2) where the pictures are rows of an array. `part` is a file that holds those
    bytes until they are moved to their place.
    """

    decoded: Decoded
    places: NDArray[np.uint64]
    part: Path | None = None


class _Start(msgspec.Struct, frozen=True, tag="start"):
    """Of a process that writes: what it decodes, and the start of the machine."""

    identity: str
    boot: str


class _Synced(msgspec.Struct, frozen=True, tag="synced"):
    """All records before this one are of pictures that the disk holds."""


class _Done(msgspec.Struct, frozen=True, tag="done"):
    """A chunk: arrays as their bytes, and messages whose names need not be UTF-8."""

    rows: bytes
    sha256: bytes
    pictures: bytes
    places: bytes
    broken: list[tuple[int, bytes]]
    warnings: dict[str, int]


_Record = _Start | _Synced | _Done


class Journal:
    """The open file, to which one process adds records."""

    def __init__(self, path: Path, identity: str) -> None:
        """Opens the file, or begins it anew where it is of other pictures or damaged.

        Args:
            path: of the file.
            identity: a digest of what is decoded, and in which order.
        """
        kept = _trusted(list(_records(path)), identity)
        self.done = [_stored(record) for _, record in kept if isinstance(record, _Done)]
        self._file = path.open("r+b" if kept else "w+b", buffering=0)
        self._file.truncate(kept[-1][0] if kept else 0)
        self._file.seek(0, os.SEEK_END)
        self._write(_Start(identity, _boot()))

    def add(self, stored: Stored) -> None:
        """Notes that a chunk is stored."""
        decoded = stored.decoded
        self._write(
            _Done(
                rows=decoded.rows.astype(np.int64).tobytes(),
                sha256=decoded.sha256.tobytes(),
                pictures=decoded.pictures.tobytes(),
                places=stored.places.tobytes(),
                broken=[(image.row, os.fsencode(image.message)) for image in decoded.broken],
                warnings=dict(decoded.warnings),
            )
        )

    def mark_synced(self) -> None:
        """Notes that the disk holds the pictures of all records so far."""
        self._write(_Synced())
        os.fdatasync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, record: _Record) -> None:
        content = msgspec.msgpack.encode(record)
        self._file.write(_FRAME.pack(len(content), zlib.crc32(content)) + content)


def done_in(path: Path) -> list[Stored]:
    """The chunks whose records the file holds."""
    return [_stored(record) for _, record in _records(path) if isinstance(record, _Done)]


def _records(path: Path) -> Iterator[tuple[int, _Record]]:
    """The whole records of the file, each with the byte at which it ends."""
    decoder = msgspec.msgpack.Decoder(_Record)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        while len(head := file.read(_FRAME.size)) == _FRAME.size:
            length, crc = _FRAME.unpack(head)
            content = file.read(length)
            if len(content) < length or zlib.crc32(content) != crc:
                return
            yield file.tell(), decoder.decode(content)


def _trusted(records: list[tuple[int, _Record]], identity: str) -> list[tuple[int, _Record]]:
    """The first records, those of pictures that the disk holds; none where they are of others."""
    starts = [record for _, record in records if isinstance(record, _Start)]
    if any(start.identity != identity for start in starts) or not starts:
        return []
    if starts[-1].boot == _boot() != "":
        return records
    synced = [n for n, (_, record) in enumerate(records) if isinstance(record, _Synced)]
    return records[: synced[-1] + 1] if synced else []


def _stored(record: _Done) -> Stored:
    rows = np.frombuffer(record.rows, np.int64)
    decoded = Decoded(
        images=len(rows),
        broken=[Broken(row, os.fsdecode(message)) for row, message in record.broken],
        rows=rows,
        sha256=np.frombuffer(record.sha256, np.uint8).reshape(-1, DIGEST_BYTES),
        pictures=np.frombuffer(record.pictures, PICTURE),
        warnings=Counter(record.warnings),
    )
    return Stored(decoded, np.frombuffer(record.places, np.uint64).reshape(-1, 2))


def _boot() -> str:
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""
