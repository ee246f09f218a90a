"""One process at a time writes a folder; the others wait."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.base.cache_folder import CACHE_VARIABLE
from runtime.base.errors import UserError
from training.data.loading_progress import report


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of `folder`, which need not exist; its parent is made.

    The system frees the lock when the process dies. UserError if the parent cannot be written.
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
