"""Ctrl-C and SIGTERM as a wish that the training loop grants between two steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from runtime.errors import SkdEdgeError


class InterruptedRunError(SkdEdgeError):
    """Training was asked to stop and has left a checkpoint."""


class StopRequest:
    """Set by the first SIGINT or SIGTERM; a second one acts at once."""

    def __init__(self) -> None:
        self.requested = False

    def receive(self, number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Catches both signals while the block runs."""
    request = StopRequest()
    former = {
        number: signal.signal(number, request.receive) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
