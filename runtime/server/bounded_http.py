"""uvicorn with bounds on the size and time of what a client sends before an application sees it.

It also sends every small answer in one piece. Both need methods and attributes of uvicorn that are
not documented. So pyproject.toml bounds its version, and a test fails when these parts change.
"""

import asyncio
import json
import logging
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 << 10  # of a request line with all its headers; browsers send under 16 kB
HEAD_SECONDS = 20.0  # from the connection, or the first byte after an answer, to the whole head

_GATHERED_BYTES = 16 << 10

_REASON = "Request Header Fields Too Large"
_PROBLEM = json.dumps(
    {
        "type": "about:blank",
        "title": _REASON,
        "status": 431,
        "detail": f"the head of the request has over {MAX_HEAD_BYTES} bytes, the limit",
    }
).encode()
_TOO_LARGE = (
    f"HTTP/1.1 431 {_REASON}\r\ncontent-type: application/problem+json\r\n"
    f"content-length: {len(_PROBLEM)}\r\nconnection: close\r\n\r\n"
).encode() + _PROBLEM


def server_config(application: Any, **options: Any) -> uvicorn.Config:
    """The settings of uvicorn that all our servers share.

    Args:
        application: what answers; it must bound the bodies that it reads.
        options: further settings of `uvicorn.Config`.
    """
    return uvicorn.Config(
        application,
        http=BoundedHttpProtocol,
        ws="none",  # we have no WebSockets, and a connection of theirs would leave our protocol
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        **options,
    )


class GatheredWrites:
    """A transport that sends in one piece what is written in one turn of the event loop.

    uvicorn writes the head and the body of an answer separately. That makes two system calls and
    two packets, and the second one wakes the client again. It took a tenth of the time of a small
    answer.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        """Sends by `transport`; `loop` is its event loop."""
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Keeps `data` until the next turn of the loop, or sends all at once if it is much."""
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)
        self._size += len(data)
        # The transport must know of much data, because it slows down whoever writes too fast.
        if self._size >= _GATHERED_BYTES:
            self._flush()

    def close(self) -> None:
        """Sends what was written, then closes the connection."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._pieces:
            self._transport.write(b"".join(self._pieces))
            self._pieces, self._size = [], 0


class BoundedHttpProtocol(HttpToolsProtocol):
    """HTTP/1.1 with limits: a head over MAX_HEAD_BYTES gets a 431, a late one is not waited for.

    Without these limits, uvicorn (0.54) waits for ever, and keeps everything that comes of a head,
    of the trailers of a chunked body, and of what still follows an early answer.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the time limit of the first head."""
        self._pending_bytes = 0  # since a head was complete, or a piece of a body came
        self._deadline: asyncio.TimerHandle | None = None
        gathered: Any = GatheredWrites(transport, self.loop)
        super().connection_made(gathered)
        self._limit_time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the time limit with the connection."""
        self._lift_time_limit()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Hands data to uvicorn, at most as much as a head may still have."""
        while data and not self.transport.is_closing():
            room = MAX_HEAD_BYTES - self._pending_bytes
            if room == 0:
                self._refuse()
                return
            piece, data = data[:room], data[room:]
            self._pending_bytes += len(piece)
            super().data_received(piece)
        if self._deadline is None and self._owes_no_answer():
            self._limit_time()

    def on_headers_complete(self) -> None:
        """Ends the limits of a head that is complete."""
        self._pending_bytes = 0
        self._lift_time_limit()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Starts to count anew: a piece of a body is no part of a head."""
        self._pending_bytes = 0
        super().on_body(body)

    def _owes_no_answer(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _limit_time(self) -> None:
        self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _lift_time_limit(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self) -> None:
        # While an answer is owed, the client would take the 431 for that answer.
        if self._owes_no_answer():
            self.transport.write(_TOO_LARGE)
        self.transport.close()
