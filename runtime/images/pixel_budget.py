"""Bounds how many pixels a process that serves decodes at one time, because each takes memory.

While a picture is decoded, it takes up to 32 bytes a pixel (measured: a PNG of 16 bits with alpha).
Without a bound, the large pictures of a few requests would together take more than a server has.
"""

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

MOST_PIXELS = 64_000_000  # of all large pictures together
SMALL = 1_000_000  # a picture of so many pixels waits for nobody


class NoRoom(BaseException):
    """There is no room for a picture now. It is no error of it, so decoders must not handle it.

    Attributes:
        pixels: of the picture.
    """

    def __init__(self, pixels: int) -> None:
        super().__init__(pixels)
        self.pixels = pixels


class PixelBudget:
    """Large pictures wait here, first come first served, until there is room for their pixels."""

    def __init__(self, most: int) -> None:
        """`most` is how many pixels there may be together; a picture of more goes alone."""
        self._most = most
        self.clear()

    def clear(self) -> None:
        """Forgets everybody. A forked process has none of the threads that held or waited."""
        self._changed = threading.Condition()
        self._used = 0
        self._line: deque[object] = deque()

    def take(self, pixels: int) -> None:
        """Waits until there is room for `pixels`, and takes it."""
        place = object()
        with self._changed:
            self._line.append(place)
            try:
                self._changed.wait_for(lambda: self._line[0] is place and self._has_room(pixels))
                self._used += pixels
            finally:
                self._line.remove(place)
                self._changed.notify_all()  # there may be room for the next one, too

    def take_now(self, pixels: int) -> bool:
        """Takes room for `pixels` if there is some and nobody waits for it; whether it did."""
        with self._changed:
            if self._line or not self._has_room(pixels):
                return False
            self._used += pixels
            return True

    def has_room(self, pixels: int) -> bool:
        """Whether `take_now` would find room at this moment."""
        with self._changed:
            return not self._line and self._has_room(pixels)

    def give_back(self, pixels: int) -> None:
        """Gives back what was taken."""
        with self._changed:
            self._used -= pixels
            self._changed.notify_all()

    def _has_room(self, pixels: int) -> bool:
        return self._used == 0 or self._used + pixels <= self._most


class _OfThread(threading.local):
    """What a thread holds of the budget (None: it needs none of it), and whether it waits."""

    held: int | None = None
    waits: bool = True


_budget = PixelBudget(MOST_PIXELS)
own = _OfThread()
os.register_at_fork(after_in_child=_budget.clear)


@contextmanager
def bounded_decoding(*, wait: bool = True) -> Iterator[None]:
    """Bounds the large pictures that this thread decodes inside the block.

    Args:
        wait: whether it waits for room.

    Raises:
        NoRoom: it does not wait, and there is no room.
    """
    if own.held is not None:  # the outer block gives back
        yield
        return
    own.held, own.waits = 0, wait
    try:
        yield
    finally:
        give_back_room()
        own.held = None


def bound_thread() -> None:
    """Bounds all that this thread decodes; it does not wait, and calls `give_back_room` itself."""
    own.held, own.waits = 0, False


def give_back_room() -> None:
    """Gives back what this thread holds."""
    held, own.held = own.held, 0
    if held:
        _budget.give_back(held)


def wait_for_room(pixels: int) -> None:
    """Called before a picture is decoded. Takes room only inside of `bounded_decoding`, and once.

    Raises:
        NoRoom: as `bounded_decoding`.
    """
    if pixels <= SMALL or own.held != 0:
        return
    if own.waits:
        _budget.take(pixels)
    elif not _budget.take_now(pixels):
        raise NoRoom(pixels)
    own.held = pixels


def is_room_for(pixels: int) -> bool:
    """Whether a picture of so many pixels could be decoded now."""
    return _budget.has_room(pixels)
