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
_SMALL = 1_000_000  # a picture of so many pixels waits for nobody


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

    def give_back(self, pixels: int) -> None:
        """Gives back what was taken."""
        with self._changed:
            self._used -= pixels
            self._changed.notify_all()

    def _has_room(self, pixels: int) -> bool:
        return self._used == 0 or self._used + pixels <= self._most


class _OfThread(threading.local):
    """What a thread holds of the budget; None: it needs none of it."""

    held: int | None = None


_budget = PixelBudget(MOST_PIXELS)
_own = _OfThread()
os.register_at_fork(after_in_child=_budget.clear)


@contextmanager
def bounded_decoding() -> Iterator[None]:
    """Lets this thread wait for room before it decodes a large picture inside the block."""
    if _own.held is not None:  # the outer block gives back
        yield
        return
    _own.held = 0
    try:
        yield
    finally:
        held, _own.held = _own.held, None
        if held:
            _budget.give_back(held)


def wait_for_room(pixels: int) -> None:
    """Called before a picture is decoded. Waits only inside of `bounded_decoding`, and once."""
    if pixels > _SMALL and _own.held == 0:
        _budget.take(pixels)
        _own.held = pixels
