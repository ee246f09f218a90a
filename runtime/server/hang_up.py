"""What SIGHUP does to a server: it loads the models again, or ends it with its terminal."""

import os
import signal

from runtime.server.reloading import Reloader


class HangUp:
    """The handler: it loads the models again; or ends the server, if its terminal is gone.

    The system sends the same signal when a terminal is closed. A server that was started there by
    hand ends then, as every other command does, unless `nohup` told it to stay.

    It is set before the models are opened, because the signal would end the process until then.
    What it is asked meanwhile it does when it gets the reloader.
    """

    def __init__(self) -> None:
        """To be made before it becomes the handler: it asks what SIGHUP did until now."""
        self._reloader: Reloader | None = None
        self._asked = False
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._needs_terminal = not ignored and _has_terminal()

    def __call__(self, *_: object) -> None:
        """Handles the signal."""
        if self._needs_terminal and not _has_terminal():
            signal.raise_signal(signal.SIGTERM)
        elif self._reloader is None:
            self._asked = True
        else:
            self._reloader.request()

    def hand_over(self, reloader: Reloader) -> None:
        """From now on `reloader` is asked; and now, if the signal has come before."""
        self._reloader = reloader
        if self._asked:
            reloader.request()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
