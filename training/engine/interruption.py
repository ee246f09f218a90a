"""Ctrl-C, SIGTERM and a lost terminal as a wish that the training loop grants between two steps."""

import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from runtime.base.errors import SkdEdgeError


class InterruptedRunError(SkdEdgeError):
    """Training was asked to stop and has left a checkpoint."""


class StopRequest:
    """Set by the first SIGINT, SIGTERM or SIGHUP; a second one of the former two acts at once."""

    def __init__(self) -> None:
        self.requested = False

    def receive(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            # Its shell sends it and then the system again: a second one is no impatience.
            _leave_lost_terminal()
        elif self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Catches the signals while the block runs; but for SIGHUP where it is ignored (`nohup`)."""
    request = StopRequest()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    former = {number: signal.signal(number, request.receive) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _leave_lost_terminal() -> None:
    """Sends to nowhere what is still printed: a terminal that is gone would refuse it (EIO)."""
    for descriptor in (1, 2):
        with suppress(OSError):  # closed already
            # A lost terminal is still a device, and answers as none.
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
