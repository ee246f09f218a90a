"""Files that are either whole or absent, their locks, and the folder in which caches are kept.

A file or folder is written under a temporary name, forced onto the disk (fsync) and then renamed.
"""

import contextlib
import ctypes
import fcntl
import glob
import hashlib
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from runtime.base.errors import UserError

CACHE_VARIABLE = "SKD_EDGE_CACHE"
_DAY = 24 * 60 * 60  # seconds
_AT_FDCWD = -100  # linux/fcntl.h: relative paths are those of the working directory
_RENAME_EXCHANGE = 2  # linux/fs.h
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`. On success it is fsynced and renamed to `path`.

    On any exception the temporary file is removed and `path` keeps its former content.

    Raises:
        OSError: the file cannot be written; the error names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        # mkstemp would make a private file (0600). This one is as readable as any other new file.
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
    """Writes `content` (text as UTF-8) to `path`, or leaves `path` as it was.

    Raises:
        OSError: the file cannot be written; the error names `path`.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder beside `folder`. On success it takes the place of `folder`.

    On an exception the new folder is removed and `folder` stays as it was.

    The two folders are exchanged in one step of the system. A kill or a power failure leaves either
    the former folder or the new one, complete. Some file systems have no such step (older kernels,
    NFS, exFAT). There the exchange takes two steps, and a kill between them leaves no `folder`; the
    former one then lies beside its place as `.NAME.*.old`. `leftovers` finds what a killed process
    has left.

    Raises:
        OSError: the folder cannot be written; the error names `folder`.
    """
    folder = folder.resolve()  # of a link: the folder that it points to
    unique = secrets.token_hex(4)  # process numbers are not unique: containers share them
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
        shutil.rmtree(staging, ignore_errors=True)  # after an exchange this is the former one
        if folder.exists():
            shutil.rmtree(former, ignore_errors=True)


def _name(error: OSError, path: Path, *, instead_of: Path) -> None:
    """Makes an error name `path` where it names a temporary file, or no file at all.

    Errors of writing to an open file name no file.
    """
    if error.errno is None:  # the system did not raise it, so it has a message of its own
        return
    if error.filename is None or Path(str(error.filename)).is_relative_to(instead_of):
        error.filename = str(path)


def _exchange(first: Path, second: Path) -> bool:
    """Exchanges the contents of two paths in one step; False where the system cannot do that."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except AttributeError:  # not Linux, or a C library from before 2018
        return False
    paths = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second))
    return bool(renameat2(*paths, _RENAME_EXCHANGE) == 0)


def _replace(folder: Path, staging: Path, former: Path) -> None:
    """Moves `folder` to `former` if it exists, and `staging` to `folder`.

    If the second move fails, the first one is undone.
    """
    try:
        if folder.exists():
            folder.rename(former)
        staging.rename(folder)
    except BaseException:  # including Ctrl-C
        if former.exists() and not folder.exists():
            former.rename(folder)
        raise


def leftovers(folder: Path) -> Iterator[Path]:
    """Folders that killed processes left while they wrote `folder`, or that are written now."""
    name = glob.escape(f".{folder.name}.")
    yield from folder.parent.glob(f"{name}*.new")
    yield from folder.parent.glob(f"{name}*.old")


def remove_abandoned(folder: Path) -> None:
    """Removes the `leftovers` that are more than a day old, because nobody writes them any more.

    Nothing is removed if `folder` does not exist: one of the leftovers may be its last copy.
    """
    folder = folder.resolve()
    if not folder.exists():
        return
    for path in leftovers(folder):
        with contextlib.suppress(FileNotFoundError):  # another process has removed it
            if time.time() - path.stat().st_mtime > _DAY:
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path, *, create: bool = False) -> Iterator[None]:
    """Holds the lock of the file `path` while the block runs, and waits for it.

    Whoever holds it may replace or remove the file; the next one locks the file that is there then.
    The system frees the lock of a process that dies.

    Args:
        path: the file.
        create: whether an empty file is made where there is none.

    Raises:
        UserError: the file system has no locks.
        OSError: the file cannot be opened or made.
    """
    while True:
        descriptor = _opened(path, os.O_RDWR | (os.O_CREAT if create else 0))
        try:
            _lock(descriptor, path)
            if not _is_file_at(descriptor, path):
                continue  # those who come now lock the new file, and so must this process
            yield
            return
        finally:
            os.close(descriptor)


def _opened(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags, 0o666)
    except PermissionError:  # it may only be read; then NFS has no lock of it, and others have one
        return os.open(path, os.O_RDONLY)


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        raise UserError(
            f"{path} cannot be locked ({error.strerror}); keep it on a file system that has locks"
        ) from error


def _is_file_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def temporaries(folder: Path) -> Iterator[Path]:
    """Temporary files of `atomic_path` in `folder`: left by killed processes, or written now."""
    yield from (path for path in folder.glob(".*.tmp") if _TEMPORARY.fullmatch(path.name))


def check_writable(folder: Path) -> None:
    """Checks that files can be made in `folder`, or that `folder` itself can be made.

    It is called before work that takes minutes. A full disk still shows only when files are
    written.

    Raises:
        UserError: this user may not write there, or a part of the path is a file.
    """
    above = (folder, *folder.absolute().parents)
    place = next(place for place in above if place.exists() or place.is_symlink())
    if not place.is_dir():
        what = "a file" if place.exists() else "a link that leads nowhere"
        raise UserError(f"{place} is {what}; expected a folder, which may not exist yet")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(
            f"{place} may not be written to by this user; change that, or choose another folder"
        )
    try:  # root has every right in /proc, and yet no file can be made there
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise UserError(
            f"no file can be made in {place} ({error.strerror}); choose another folder"
        ) from error


def printable_path(path: str) -> str:
    """The path as text. Bytes that are no UTF-8 are shown by their codes."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def sha256_of(path: Path) -> str:
    """The SHA-256 of the file's content, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return sha256_of_open(file)


def sha256_of_open(file: BinaryIO) -> str:
    """The SHA-256 of an open file from where it stands, which is its end then."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def sha256_of_bytes(content: bytes) -> str:
    """The SHA-256 of `content`, as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_root() -> Path:
    """The folder for decoded arrays, downloads and compiled kernels.

    It is the one that `$SKD_EDGE_CACHE` names, or `~/.cache/skd-edge`.

    Raises:
        UserError: the path begins with `~`, and this user has no home folder.
    """
    named = os.environ.get(CACHE_VARIABLE) or "~/.cache/skd-edge"
    try:
        return Path(named).expanduser()
    except RuntimeError as error:  # an unknown user, or one without a home, as in some containers
        raise UserError(
            f"there is no home folder for the cache {named}; "
            f"set {CACHE_VARIABLE} to a folder that may be written"
        ) from error
