"""Files that are either whole or absent: temporary name, fsync, rename."""

import contextlib
import ctypes
import glob
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

_DAY = 24 * 60 * 60  # seconds
_AT_FDCWD = -100  # linux/fcntl.h: relative paths are those of the working directory
_RENAME_EXCHANGE = 2  # linux/fs.h
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is fsynced and renamed to `path`.

    On any exception the temporary file is removed and `path` keeps its former content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        # Not mkstemp, whose files are private (0600): as readable as any other new file.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        _fsync(temporary)
        temporary.replace(path)
        _fsync(path.parent)
    except OSError as error:
        _name(error, path, instead_of=temporary)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Writes `content` (text as UTF-8) to `path`, or leaves `path` as it was."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder beside `folder`; on success it takes the place of `folder`, whole.

    On an exception it is removed and `folder` stays as it was. The exchange is one step of the
    system, so that a kill or a power failure leaves one of the two, whole; where the file system
    has no such step (older kernels, NFS, exFAT), it is two, and a kill between them leaves no
    `folder`, and the former one beside its place, as `.NAME.*.old`. What a killed process leaves
    is named by `leftovers`.
    """
    folder = folder.resolve()  # of a link, the folder that it points to
    unique = secrets.token_hex(4)  # not the process's number: in containers all have the same
    staging = folder.with_name(f".{folder.name}.{unique}.new")
    former = folder.with_name(f".{folder.name}.{unique}.old")
    try:
        staging.mkdir(parents=True)
        yield staging
        for path in (*staging.rglob("*"), staging):
            if not path.is_symlink():
                _fsync(path)
        if not folder.exists() or not _exchange(staging, folder):
            _replace(folder, staging, former)
        _fsync(folder.parent)
    except OSError as error:
        _name(error, folder, instead_of=staging)
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)  # once exchanged, the former one
        if folder.exists():
            shutil.rmtree(former, ignore_errors=True)


def _name(error: OSError, path: Path, *, instead_of: Path) -> None:
    """Puts the lasting name for a temporary one, and for none: an open file's errors have none."""
    if error.errno is None:  # not the system's: its message is its own
        return
    if error.filename is None or Path(str(error.filename)).is_relative_to(instead_of):
        error.filename = str(path)


def _exchange(first: Path, second: Path) -> bool:
    """Gives each of two paths the other's content in one step; False where that does not go."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except AttributeError:  # no Linux, or one with a C library before 2018
        return False
    paths = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second))
    return bool(renameat2(*paths, _RENAME_EXCHANGE) == 0)


def _replace(folder: Path, staging: Path, former: Path) -> None:
    """Moves `folder`, if there is one, to `former` and `staging` to `folder`, or nothing."""
    try:
        if folder.exists():
            folder.rename(former)
        staging.rename(folder)
    except BaseException:  # Ctrl-C, too
        if former.exists() and not folder.exists():
            former.rename(folder)
        raise


def leftovers(folder: Path) -> Iterator[Path]:
    """Folders that killed processes left while they wrote `folder`, or that others write now."""
    name = glob.escape(f".{folder.name}.")
    yield from folder.parent.glob(f"{name}*.new")
    yield from folder.parent.glob(f"{name}*.old")


def remove_abandoned(folder: Path) -> None:
    """Removes the `leftovers` that are more than a day old: nobody writes them any more.

    Nothing if there is no `folder`: then one of them may be all that is left of it.
    """
    folder = folder.resolve()
    if not folder.exists():
        return
    for path in leftovers(folder):
        with contextlib.suppress(FileNotFoundError):  # another process was quicker
            if time.time() - path.stat().st_mtime > _DAY:
                shutil.rmtree(path, ignore_errors=True)


def temporaries(folder: Path) -> Iterator[Path]:
    """Files in `folder` that killed processes left behind `atomic_path`, or that others write."""
    yield from (path for path in folder.glob(".*.tmp") if _TEMPORARY.fullmatch(path.name))


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of the file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_bytes(content: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(content).hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
