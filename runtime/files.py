"""Files that are either whole or absent: temporary name, fsync, rename."""

import glob
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is fsynced and renamed to `path`.

    On any exception the temporary file is removed and `path` keeps its former content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    # Not mkstemp, whose files are private (0600): as readable as any other new file.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        _fsync(temporary)
        temporary.replace(path)
        _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Writes `content` (text as UTF-8) to `path`, or leaves `path` as it was."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder beside `folder`; on success it takes the place of `folder`, whole.

    On an exception it is removed and `folder` stays as it was. What a killed process leaves is
    named by `leftovers`.
    """
    unique = secrets.token_hex(4)  # not the process's number: in containers all have the same
    staging = folder.with_name(f".{folder.name}.{unique}.new")
    former = folder.with_name(f".{folder.name}.{unique}.old")
    try:
        staging.mkdir(parents=True)
        yield staging
        for path in (*staging.rglob("*"), staging):
            _fsync(path)
        if folder.exists():
            folder.rename(former)
        try:
            staging.rename(folder)
        except OSError:
            if former.exists():
                former.rename(folder)
            raise
        _fsync(folder.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    shutil.rmtree(former, ignore_errors=True)


def leftovers(folder: Path) -> Iterator[Path]:
    """Folders that killed processes left while they wrote `folder`, or that others write now."""
    name = glob.escape(f".{folder.name}.")
    yield from folder.parent.glob(f"{name}*.new")
    yield from folder.parent.glob(f"{name}*.old")


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
