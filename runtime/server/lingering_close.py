"""The end of a connection whose client still sends when its answer is there.

A system that closes a socket with unread data resets the connection, and a reset makes the system
of the client drop the answer that its program has not read yet (RFC 9112, section 9.6). So most
clients that sent a body of 20 MB with a wrong token saw "connection reset" and no 401.
"""

import asyncio
from collections.abc import Callable

from runtime.server.gathered_writes import GatheredWrites

# nginx's lingering_time and lingering_timeout are 30 s and 5 s. A connection that stays open also
# gives 20 s (HEAD_SECONDS) to the rest of a request that was answered early.
LINGER_SECONDS = 20.0
SILENT_SECONDS = 5.0  # without a byte
LINGER_BYTES = 256 << 20


class LingeringTransport(GatheredWrites):
    """A transport that, where the client still sends, closes the half on which it writes first.

    Then it reads and drops what comes, until the client closes its half, too, or until a limit is
    reached: LINGER_SECONDS, SILENT_SECONDS or LINGER_BYTES. Nothing that is dropped is kept.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        is_receiving: Callable[[], bool],
    ) -> None:
        """Sends by `transport`; `is_receiving` says whether the client has more to send."""
        super().__init__(transport, loop)
        self._is_receiving = is_receiving
        self._lingers = False
        self._dropped = 0
        self._last_byte = 0.0
        self._timers: list[asyncio.TimerHandle] = []

    def write(self, data: bytes) -> None:
        """Sends `data` as `GatheredWrites` does; behind `close` nothing can be sent."""
        if not self._lingers:
            super().write(data)

    def pause_reading(self) -> None:
        """Reads nothing more for now; but a client that may not send would never see its answer."""
        if not self._lingers:
            super().pause_reading()

    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._lingers or self._transport.is_closing()

    def close(self) -> None:
        """Sends what was written, then closes, at once or when the client is done."""
        if self._lingers:
            return
        if self._transport.is_closing() or not self._is_receiving():
            super().close()
            return
        self._flush()
        self._lingers = True
        self._transport.write_eof()
        self.resume_reading()
        self._last_byte = self._loop.time()
        self._timers = [
            self._loop.call_later(LINGER_SECONDS, self.end),
            self._loop.call_later(SILENT_SECONDS, self._end_if_silent),
        ]

    def drop(self, size: int) -> None:
        """Counts `size` bytes that came behind `close`."""
        self._dropped += size
        self._last_byte = self._loop.time()
        if self._dropped > LINGER_BYTES:
            self.end()

    def end(self) -> None:
        """Closes the connection now, whatever its client sends."""
        super().close()

    def lost(self) -> None:
        """Ends the time limits; to be called when the connection is lost."""
        for timer in self._timers:
            timer.cancel()
        self._timers = []

    def _end_if_silent(self) -> None:
        left = self._last_byte + SILENT_SECONDS - self._loop.time()
        if left <= 0:
            self.end()
        else:
            self._timers[-1] = self._loop.call_later(left, self._end_if_silent)
