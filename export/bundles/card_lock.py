"""Locks under which a bundle is changed, so that no process writes over what another one has added.

Whoever changes a bundle reads its card, adds to it and writes it. Two processes that do so at a
time would each write a card without the other's file or engine. The card itself is the lock of a
bundle that is there, because a bundle may lie in a folder in which no other file can be made. A
file beside the bundle is the lock of those who write whole bundles, also where there is none yet.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from runtime.base.errors import UserError
from runtime.model.card import CARD_FILE


@contextmanager
def locked_card(bundle: Path) -> Iterator[None]:
    """Holds the lock of the card in the folder `bundle` while the block runs, and waits for it.

    The system frees the lock of a process that dies. Nothing is locked if there is no card.

    Raises:
        UserError: the card's file system has no locks.
    """
    file = bundle / CARD_FILE
    with _held(file, os.O_RDWR) if file.exists() else nullcontext():
        yield


@contextmanager
def locked_place(bundle: Path) -> Iterator[None]:
    """Holds the locks under which the whole folder `bundle` may be replaced or made.

    Raises:
        UserError: the file system has no locks.
        OSError: the folder that `bundle` lies in cannot be written.
    """
    place = bundle.resolve()  # of a link: the folder that it points to
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.with_name(f".{place.name}.lock")
    with _held(beside, os.O_RDWR | os.O_CREAT):
        try:
            with locked_card(place):
                yield
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def _held(file: Path, flags: int) -> Iterator[None]:
    """Holds the lock of `file`, which its former holder may have replaced or removed meanwhile."""
    while True:
        descriptor = _opened(file, flags)
        try:
            _lock(descriptor, file)
            if not _is_file_at(descriptor, file):
                continue  # those who come now lock the new file, and so must this process
            yield
            return
        finally:
            os.close(descriptor)


def _opened(file: Path, flags: int) -> int:
    try:
        return os.open(file, flags, 0o666)
    except PermissionError:  # it may only be read; then NFS has no lock of it, and others have one
        return os.open(file, os.O_RDONLY)


def _lock(descriptor: int, file: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        raise UserError(
            f"{file} cannot be locked ({error.strerror}); keep the bundle on a file system that "
            "has locks"
        ) from error


def _is_file_at(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False
