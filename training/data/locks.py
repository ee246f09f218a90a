"""A lock for a folder: one process at a time writes it, and the others wait."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.base.errors import UserError
from runtime.base.files import CACHE_VARIABLE
from training.data.loading_progress import report


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of `folder` while the block runs. Waits for it as long as another has it.

    The folder need not exist; its parent is made. The system frees the lock of a process that dies.

    Raises:
        UserError: if the parent cannot be written, or the file system has no locks.
    """
    from filelock import FileLock, Timeout

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.parent / f".{folder.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            report(f"waiting for another process that writes {folder}")
            lock.acquire()
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        raise UserError(
            f"{folder.parent} cannot be written ({error}); choose another folder for data "
            f"({CACHE_VARIABLE}, --data-root)"
        ) from error
    try:
        yield
    finally:
        lock.release()
