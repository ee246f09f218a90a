"""Finds files that were replaced by others of the same name, size and time of modification.

Those three are in the key of a cache entry, so that a copy of the data that keeps them uses the
same entry. They do not tell everything: a program can set the time of modification. The entry
therefore also keeps each file's inode and the time when its state last changed (`st_ctime`), which
no program can set, and the SHA-256 of its bytes. Where inode and time are the same, the file is.
Where they differ, it was replaced, or only copied, linked, renamed or given other permissions; some
network file systems give other inodes after each mount. Then the bytes are read and decide.
"""

import hashlib
import io
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.base.files import write_atomic
from training.data.loading_progress import track

DIGEST_BYTES = 32
_UNREADABLE = bytes(DIGEST_BYTES)
_ABSENT = (-1, -1)
_POSITIVE = (1 << 63) - 1  # an inode has 64 bits without a sign
_BLOCK_BYTES = 1 << 20
_THREADS = 4  # hashlib works outside the interpreter lock


def states_of(files: Iterable[Path]) -> NDArray[np.int64]:
    """`st_ctime_ns` and `st_ino` of each file, or of what it links to: int64 (F, 2).

    Both are -1 where there is no file.
    """
    return np.array([_state(file) for file in files], np.int64).reshape(-1, 2)


def write_states(path: Path, states: NDArray[np.int64]) -> None:
    """Writes what `states_of` gave to the `.npy` file `path`."""
    file = io.BytesIO()
    np.save(file, states)
    write_atomic(path, file.getvalue())


def other_states(path: Path, states: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of `states` that are not those in the file `path`: int64 (S,).

    All rows, where the file cannot be read.
    """
    try:
        known = np.load(path)
    except Exception:  # numpy has errors of many classes for a damaged head
        return np.arange(len(states))
    if known.shape != states.shape:
        return np.arange(len(states))
    return np.flatnonzero((known != states).any(axis=1))


def digests_of(files: Sequence[Path]) -> Iterator[bytes]:
    """SHA-256 of each file's bytes, in order; 32 zero bytes of one that cannot be read."""
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(_digest, files)


def first_replaced(
    files: Sequence[Path],
    suspects: NDArray[np.int64],
    digests: NDArray[np.uint8],
    *,
    name: str,
    show: bool,
) -> Path | None:
    """The first of the suspected files whose bytes are not those that were decoded.

    Args:
        files: all files of a data set.
        suspects: the rows of the files to look at, int64 (S,).
        digests: what the bytes of all files were, uint8 (F, 32).
        name: of the data set.
        show: whether to show how far the reading is.
    """
    suspected: list[Path] = [files[row] for row in suspects]
    found: list[bytes] = []

    def steps() -> Iterator[int]:
        for digest in digests_of(suspected):
            found.append(digest)
            yield 1

    what = f"comparing the files of {name} with those that were decoded"
    for _ in track(steps(), total=len(suspected), what=what, show=show):
        if found[-1] != digests[suspects[len(found) - 1]].tobytes():
            return suspected[len(found) - 1]
    return None


def _state(file: Path) -> tuple[int, int]:
    try:
        state = file.stat()
    except OSError:
        return _ABSENT
    return state.st_ctime_ns, state.st_ino & _POSITIVE


def _digest(file: Path) -> bytes:
    digest = hashlib.sha256()
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # reading a pipe could block
            return _UNREADABLE
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError:
        return _UNREADABLE
    return digest.digest()
