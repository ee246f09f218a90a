"""The end of a connection whose client still sends when its answer is there.

A system that closes a socket with unread data resets the connection, and a reset makes the system
of the client drop the answer that its program has not read yet (RFC 9112, section 9.6). So most
clients that sent a body of 20 MB with a wrong token saw "connection reset" and no 401.
"""

import asyncio

# nginx's lingering_time and lingering_timeout are 30 s and 5 s. A connection that stays open also
# gives 20 s (HEAD_SECONDS) to the rest of a request that was answered early.
LINGER_SECONDS = 20.0
SILENT_SECONDS = 5.0  # without a byte
LINGER_BYTES = 256 << 20


class LingeringClose:
    """Closes the half of a connection on which an answer was written, and waits for the client.

    What comes is read and dropped until the client closes its half, too, or until a limit is
    reached: LINGER_SECONDS, SILENT_SECONDS or LINGER_BYTES.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        """Begins, behind all that was written on `transport`."""
        self._transport = transport
        self._loop = loop
        self._dropped = 0
        self._last_byte = loop.time()
        self._end = loop.call_later(LINGER_SECONDS, transport.close)
        self._silence = loop.call_later(SILENT_SECONDS, self._end_if_silent)
        transport.write_eof()

    def drop(self, size: int) -> None:
        """Counts `size` bytes that the client has still sent."""
        self._dropped += size
        self._last_byte = self._loop.time()
        if self._dropped > LINGER_BYTES:
            self._transport.close()

    def lost(self) -> None:
        """Ends the time limits; to be called when the connection is lost."""
        self._end.cancel()
        self._silence.cancel()

    def _end_if_silent(self) -> None:
        left = self._last_byte + SILENT_SECONDS - self._loop.time()
        if left <= 0:
            self._transport.close()
        else:
            self._silence = self._loop.call_later(left, self._end_if_silent)
