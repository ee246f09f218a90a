"""Run folders: their names, who may write to them, and `runs/latest`."""

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from runtime.base.errors import UserError
from runtime.base.files import check_writable, temporaries
from runtime.model.locate import CHECKPOINT, LATEST, RESULT, RUNS

IMAGES = "images.json"  # of a finished run: training.evaluation.confidence.image_record
_LOCK = ".lock"
# A process that looks for a free folder holds the folder's lock for an instant. So nobody believes
# that a folder is taken before the lock has been held for longer than that: a process that wants to
# train in it waits for a second, one that only looks at it does not wait that long.
_TRAIN_WAIT_SECONDS = 1
_LOOK_WAIT_SECONDS = 0.1
_POLL_SECONDS = 0.01


class RunFolder(NamedTuple):
    """A folder that one process trains in.

    `exists` says whether it has a checkpoint to go on from, `finished` whether it has a result.
    """

    path: Path
    exists: bool
    finished: bool


def run_name(*, data: str, arch: str, terms: str, seed: int) -> str:
    """`<data>-<arch>-<terms>-s<seed>`, in characters that every file name may have."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '_', data)}-{arch}-{terms}-s{seed}"


def choose_folder(name: str, *, out: Path | None, resume: bool) -> RunFolder:
    """The folder of a new run, or with `resume` the one to continue.

    A folder that holds a checkpoint is never trained over: a new run takes the next free number
    (`...-2`). `resume` takes the newest unfinished run of that name. If there is none it takes the
    newest finished one, and if there is no run at all, the folder of a new one.
    """
    base = out if out is not None else RUNS / name
    series = _series(base)
    if resume:
        unfinished = [folder for folder in series if folder.exists and not folder.finished]
        done = [folder for folder in series if folder.finished]
        return (unfinished or done or series[:1])[-1]
    return next(folder for folder in series if not folder.exists and not is_locked(folder.path))


def check_out(out: Path, *, resume: bool) -> None:
    """Checks before data are decoded that a run can be written to the folder `out`.

    With `resume` nothing is written to a finished run, so it may be one that can only be read.

    Raises:
        UserError: if `out` is a file, or this user may not write there.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; expected a folder, which may not exist yet")
    if not resume:
        check_writable(choose_folder(out.name, out=out, resume=False).path)


def check_latest() -> None:
    """Checks that training can move `runs/latest` later.

    Raises:
        UserError: if it is not a link, and so not made by training, or if links cannot be made.
    """
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
    """Points `runs/latest` at `run`, a folder in `runs/`. The link is never absent meanwhile."""
    link = _unused(LATEST)
    link.symlink_to(run.name)
    link.replace(LATEST)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Makes `folder` and holds its lock while the block runs.

    The system frees the lock of a process that dies.

    Raises:
        UserError: if another process is training there, if the folder cannot be made, or if its
            file system has no locks.
    """
    from filelock import FileLock, Timeout  # imported here, so that a command without it can say so

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(
            f"{folder} cannot be made: it, or what it lies in, is a file; choose another --out"
        ) from error
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=_TRAIN_WAIT_SECONDS, poll_interval=_POLL_SECONDS)
    except Timeout:
        raise UserError(
            f"another process is training in {folder}; wait for it, or choose --out"
        ) from None
    except NotImplementedError as error:
        raise UserError(f"{folder} cannot be locked ({error}); choose another --out") from error
    try:
        # A process that was killed while it wrote has left these; nobody else writes here now.
        for leftover in temporaries(folder):
            leftover.unlink()
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a process trains in `folder`."""
    from filelock import FileLock, Timeout

    path = folder / _LOCK
    if not path.is_file():
        return False
    try:
        with FileLock(path).acquire(timeout=_LOOK_WAIT_SECONDS, poll_interval=_POLL_SECONDS):
            return False
    except Timeout:
        return True


def _unused(path: Path) -> Path:
    """A hidden name beside `path` that does not exist yet."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def _series(base: Path) -> list[RunFolder]:
    """`base`, `base-2`, ... up to and including the first one without checkpoint and lock."""
    folders = []
    number = 1
    # `.` and `..` are not names that a number can be added to.
    named = base.resolve() if base.name in ("", "..") else base
    while True:
        path = base if number == 1 else named.with_name(f"{named.name}-{number}")
        exists = (path / CHECKPOINT).is_file()
        folders.append(RunFolder(path, exists, exists and (path / RESULT).is_file()))
        if not exists and not is_locked(path):
            return folders
        number += 1
