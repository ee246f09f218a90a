"""Run folders: their names, who may write to them, and `runs/latest`."""

import fcntl
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple, TextIO

from runtime.base.errors import UserError
from runtime.base.files import temporaries
from runtime.model.locate import CHECKPOINT, LATEST, RESULT, RUNS

_LOCK = ".lock"
# Another process that only looks for a free folder holds a lock for an instant.
_LOOK_SECONDS = 1
_POLL_SECONDS = 0.01


class RunFolder(NamedTuple):
    """A folder that one process trains in; `exists` if it has a checkpoint to go on from."""

    path: Path
    exists: bool
    finished: bool


def run_name(*, data: str, arch: str, terms: str, seed: int) -> str:
    """`<data>-<arch>-<terms>-s<seed>`, with nothing in it that a file name cannot have."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '_', data)}-{arch}-{terms}-s{seed}"


def choose_folder(name: str, *, out: Path | None, resume: bool) -> RunFolder:
    """The folder of a new run, or with `resume` the one to continue.

    A folder that holds a checkpoint is never trained over: a new run takes the next free number
    (`...-2`). `resume` takes the newest unfinished run of that name, else the newest finished one,
    else starts.
    """
    base = out if out is not None else RUNS / name
    if out is not None and out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; expected a folder, which may not exist yet")
    series = _series(base)
    if resume:
        unfinished = [folder for folder in series if folder.exists and not folder.finished]
        done = [folder for folder in series if folder.finished]
        return (unfinished or done or series[:1])[-1]
    return next(folder for folder in series if not folder.exists and not _is_locked(folder.path))


def check_latest() -> None:
    """UserError if `runs/latest` is no link, and so not ours to move, or if there can be none."""
    if LATEST.exists() and not LATEST.is_symlink():
        raise UserError(f"{LATEST} is no link to a run, as training keeps it; remove or rename it")
    trial = _unused(LATEST if RUNS.is_dir() else Path(LATEST.name))
    try:
        trial.symlink_to(LATEST.name)
    except OSError as error:
        raise UserError(
            f"the link {LATEST} cannot be made here ({error.strerror}): not every file system has "
            "symbolic links; name the run folder with --out DIR"
        ) from error
    trial.unlink()


def move_latest(run: Path) -> None:
    """Points `runs/latest` at `run`, a folder in `runs/`, in one step: it is never absent."""
    link = _unused(LATEST)
    link.symlink_to(run.name)
    link.replace(LATEST)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Makes `folder` and holds it for this process; UserError if another one is training there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(
            f"{folder} cannot be made: it, or what it lies in, is a file; choose another --out"
        ) from error
    with (folder / _LOCK).open("w") as lock:
        if not _lock(lock):
            raise UserError(
                f"another process is training in {folder}; wait for it, or choose --out"
            )
        # What a process left that was killed while it wrote; nobody else writes here now.
        for leftover in temporaries(folder):
            leftover.unlink()
        yield


def _unused(path: Path) -> Path:
    """A hidden name beside `path` that nobody has."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def _lock(file: TextIO) -> bool:
    """Locks the open file for this process; False if another one keeps it."""
    deadline = monotonic() + _LOOK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if monotonic() > deadline:
                return False
            sleep(_POLL_SECONDS)
        else:
            return True


def _series(base: Path) -> list[RunFolder]:
    """`base`, `base-2`, ... up to and including the first that nobody has used."""
    folders = []
    number = 1
    # `.` and `..` have no name that a number could be added to.
    named = base.resolve() if base.name in ("", "..") else base
    while True:
        path = base if number == 1 else named.with_name(f"{named.name}-{number}")
        exists = (path / CHECKPOINT).is_file()
        folders.append(RunFolder(path, exists, exists and (path / RESULT).is_file()))
        if not exists and not _is_locked(path):
            return folders
        number += 1


def _is_locked(folder: Path) -> bool:
    path = folder / _LOCK
    if not path.is_file():
        return False
    with path.open("r") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
