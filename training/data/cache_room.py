"""What a new entry of the cache takes: its size on the disk, and the time until it is there."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from runtime.base.errors import UserError
from runtime.base.files import CACHE_VARIABLE

_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
_MINUTE, _HOUR = 60, 3600
_BLOCK = 512  # bytes: what `st_blocks` counts, by POSIX


def size_words(size: float) -> str:
    """A number of bytes, such as "1.4 GB", "38 MB" or "512 bytes"."""
    for unit, factor in _UNITS:
        if size >= factor:
            value = size / factor
            return f"{value:.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"  # noqa: PLR2004
    return f"{size:.0f} bytes"


def time_words(seconds: float) -> str:
    """A time to come, such as "2 h 10 min", "5 min" or "8 s"."""
    if seconds >= _HOUR:
        return f"{int(seconds // _HOUR)} h {int(seconds % _HOUR // _MINUTE)} min"
    if seconds >= 2 * _MINUTE:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{max(1, round(seconds))} s"


def used_by(files: Iterable[Path]) -> int:
    """The bytes of the disk that the files take; those of arrays may have holes."""
    return sum(file.stat().st_blocks * _BLOCK for file in files)


def free_in(folder: Path) -> int:
    """The bytes that are free for this user where `folder` lies."""
    return shutil.disk_usage(folder).free


def check_space(folder: Path, needed: int) -> None:
    """Checks that `needed` bytes have room in `folder`, which lies in the cache.

    Raises:
        UserError: if they have not.
    """
    free = free_in(folder)
    if needed > free:
        raise UserError(
            f"the data cache needs {size_words(needed)} and {folder.parent} has "
            f"{size_words(free)} free; free some, or set {CACHE_VARIABLE} to another disk"
        )


def sync_file(file: Path) -> None:
    """Waits until the disk holds what was written to the file."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
