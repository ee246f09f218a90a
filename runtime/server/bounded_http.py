"""uvicorn with bounds for what a client sends before an application sees it: size and time.

And with answers that leave in one piece.
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
    """The settings of uvicorn that our servers share; `options` are more of them.

    Only for bodies must the application have bounds of its own.
    """
    return uvicorn.Config(
        application,
        http=BoundedHttpProtocol,
        ws="none",  # nothing of ours speaks it, and it would leave this protocol
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        **options,
    )


class GatheredWrites:
    """A transport that sends what is written in one turn of the loop in one piece.

    uvicorn writes the head of an answer and its body apart: two system calls and two packets, of
    which the second wakes the client again. That took a tenth of the time of a small answer.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Keeps `data` until the loop's next turn; of much, nothing is kept."""
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= _GATHERED_BYTES:  # the transport must know, to slow the writer down
            self._flush()

    def close(self) -> None:
        """Closes the connection behind what was written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._pieces:
            self._transport.write(b"".join(self._pieces))
            self._pieces, self._size = [], 0


class BoundedHttpProtocol(HttpToolsProtocol):
    """HTTP/1.1 that answers 431 to a head over MAX_HEAD_BYTES and closes on one that is late.

    uvicorn (0.54) waits for ever and keeps all that comes: of a head, of the trailers of a chunked
    body, and of what still follows an early answer.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._pending_bytes = 0  # since a head was complete, or a piece of a body came
        self._deadline: asyncio.TimerHandle | None = None
        gathered: Any = GatheredWrites(transport, self.loop)
        super().connection_made(gathered)
        self._limit_time()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lift_time_limit()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
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
        self._pending_bytes = 0
        self._lift_time_limit()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
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
        if self._owes_no_answer():  # else it would be taken for the answer that is still owed
            self.transport.write(_TOO_LARGE)
        self.transport.close()
