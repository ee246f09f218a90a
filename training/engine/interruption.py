"""Requests to stop: Ctrl-C, SIGTERM or a lost terminal end the training between two steps."""

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
    """Set by the first SIGINT, SIGTERM or SIGHUP.

    A second SIGINT or SIGTERM raises KeyboardInterrupt at once.
    """

    def __init__(self) -> None:
        self.requested = False

    def receive(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            # The shell sends SIGHUP and then the system sends it again, so a second one does not
            # mean that somebody is impatient.
            _leave_lost_terminal()
        elif self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Catches the signals while the block runs; SIGHUP only where it is not ignored (`nohup`)."""
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
    """Discards what is still printed, because a terminal that is gone would refuse it (EIO)."""
    for descriptor in (1, 2):
        with suppress(OSError):  # the descriptor may be closed already
            # A lost terminal is still a character device, but no longer a terminal.
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
