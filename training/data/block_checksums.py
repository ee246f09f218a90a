"""Checksums of a file block by block, by which damage is found within seconds."""

import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

_BLOCK_BYTES = 16 << 20
# Of a larger file an even selection of blocks is checked, so that a run starts within seconds.
_MAX_CHECKED_BYTES = 4 << 30
_MAX_UNCHANGED_BYTES = 64 << 20
_THREADS = 4  # CRC-32 runs outside the interpreter lock, at about 2 GB/s a core


class Checksums(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file's length in bytes, and the CRC-32 of each of its blocks of 16 MiB."""

    length: int
    crc32: tuple[int, ...]


def checksums_of(file: Path) -> Checksums:
    """The checksums of the whole file."""
    length = file.stat().st_size
    blocks = range(0, length, _BLOCK_BYTES)
    with ThreadPoolExecutor(_THREADS) as pool:
        crc32 = tuple(pool.map(lambda start: _checksum(file, start), blocks))
    return Checksums(length, crc32)


def verify_file(file: Path, checksums: Checksums, *, unchanged: bool = False) -> None:
    """Checks the file, or an even selection of blocks of a file of more than 4 GiB.

    Where the system says that nobody has written to the file since it was checked last, it is
    `unchanged`, and only 64 MiB are checked: the disk may still have failed.

    Raises:
        ValueError: if the file differs from what the checksums were made of.
    """
    length = file.stat().st_size
    if length != checksums.length:
        raise ValueError(f"{file.name} has {length} bytes, expected {checksums.length}")
    stride = max(1, -(-length // (_MAX_UNCHANGED_BYTES if unchanged else _MAX_CHECKED_BYTES)))
    chosen = range(0, len(checksums.crc32), stride)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda block: _checksum(file, block * _BLOCK_BYTES), chosen)
        if any(checksums.crc32[block] != crc for block, crc in zip(chosen, found, strict=True)):
            raise ValueError(f"{file.name} has changed since it was written")


def _checksum(file: Path, start: int) -> int:
    with file.open("rb") as stream:
        stream.seek(start)
        return zlib.crc32(stream.read(_BLOCK_BYTES))
