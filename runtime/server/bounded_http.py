"""uvicorn with bounds on the size and time of what a client sends before an application sees it.

It also answers clients that uvicorn (0.54) leaves without an answer: those that offer another
protocol, those that close their half of the connection, and those that still send when their answer
is known. Errors of HTTP itself are problems. All of this needs methods and attributes of uvicorn
that are not documented. So pyproject.toml bounds its version, and a test fails when they change.
"""

import asyncio
import http
import json
import logging
import weakref
from collections.abc import Callable, MutableMapping
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from runtime.server.lingering_close import LingeringTransport

MAX_HEAD_BYTES = 64 << 10  # of a request line with all its headers; browsers send under 16 kB
HEAD_SECONDS = 20.0  # from the connection, or the first byte after an answer, to the whole head

# Load balancers keep idle connections for 60 s. If we closed one first, a request on its way would
# be lost.
KEEP_ALIVE_SECONDS = 75.0
LEFT = 499  # nginx's number for a client that has closed the connection before its answer

_CYCLE = "skd_edge.cycle"  # in the scope: a weak reference to uvicorn's record of the request
_REFUSAL = "skd_edge.refusal"  # in the scope: the status that was sent instead of the answer


def _refusal(status: int, detail: str) -> bytes:
    """A whole answer with a problem (RFC 9457), for requests that no application sees."""
    title = http.HTTPStatus(status).phrase
    problem = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    body = json.dumps(problem).encode()
    head = (
        f"HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


_TOO_LARGE = _refusal(
    431, f"the head of the request has over {MAX_HEAD_BYTES} bytes, the limit; send fewer headers"
)


def server_config(
    application: Any, *, keep_alive: float = KEEP_ALIVE_SECONDS, **options: Any
) -> uvicorn.Config:
    """The settings of uvicorn that all our servers share.

    Args:
        application: what answers; it must bound the bodies that it reads.
        keep_alive: how many seconds a connection waits for the next request.
        options: further settings of `uvicorn.Config`.
    """
    return uvicorn.Config(
        application,
        http=BoundedHttpProtocol,
        ws="none",  # we have no WebSockets, and a connection of theirs would leave our protocol
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        timeout_keep_alive=keep_alive,  # type: ignore[arg-type]  # it goes to call_later
        **options,
    )


def sent_status(scope: MutableMapping[str, Any], status: int) -> int:
    """The status that the client really got, where the application has answered `status`.

    It is LEFT if nothing was sent, because the client had left.
    """
    cycle = scope[_CYCLE]() if _CYCLE in scope else None
    if cycle is None or not cycle.disconnected:
        return status
    refusal: int = scope.get(_REFUSAL, LEFT)
    return refusal


def is_received(scope: MutableMapping[str, Any]) -> bool:
    """Whether all of a request is here, so that nothing waits for its client any more."""
    cycle = scope[_CYCLE]() if _CYCLE in scope else None
    return cycle is not None and not cycle.more_body


class BoundedHttpProtocol(HttpToolsProtocol):
    """HTTP/1.1 with limits: a head over MAX_HEAD_BYTES gets a 431, a late one is not waited for.

    Without these limits, uvicorn (0.54) waits for ever, and keeps everything that comes of a head,
    of the trailers of a chunked body, and of what still follows an early answer.

    An offer of another protocol (`Upgrade: h2c`, `websocket`, ...) is ignored, as RFC 9110, section
    7.8, allows, and the request is answered. uvicorn's parser ends with such a head, and uvicorn
    drops the body.

    Where an answer ends the connection before all of its request has come, the rest is read and
    dropped (`LingeringTransport`). Otherwise the client would lose the answer.
    """

    transport: LingeringTransport  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the time limit of the first head."""
        self._pending_bytes = 0  # since a head was complete, or a piece of a body came
        self._deadline: asyncio.TimerHandle | None = None
        self._is_receiving = False  # whether a part of a request is still to come
        lingering: Any = LingeringTransport(transport, self.loop, lambda: self._is_receiving)
        super().connection_made(lingering)
        self._limit_time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the time limits with the connection."""
        self._lift_time_limit()
        self.transport.lost()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses data, at most as much as a head may still have."""
        if self.transport.is_closing():
            self.transport.drop(len(data))
            return
        rest = memoryview(data)  # its slices are no copies
        while rest and not self.transport.is_closing():
            room = MAX_HEAD_BYTES - self._pending_bytes
            if room == 0:
                self._refuse()
                return
            piece, rest = rest[:room], rest[room:]
            self._pending_bytes += len(piece)
            self._unset_keepalive_if_required()
            self._parse(piece)
        if self._deadline is None and self._owes_no_answer() and not self.transport.is_closing():
            self._limit_time()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Keeps the connection until the answer is sent, if the client has sent a whole request.

        Such a client has closed only its own half (`shutdown(SHUT_WR)`), and waits for the answer.
        """
        cycle = self.cycle
        if self.transport.is_closing():
            return None
        if self._owes_no_answer() or cycle.more_body or cycle.response_started:
            return None
        cycle.keep_alive = False  # uvicorn closes the connection behind the answer
        return True

    def send_400_response(self, msg: str) -> None:
        """Refuses what is not HTTP, and closes the connection."""
        # While the answer of an earlier request is owed, the client would take this for it.
        concerns_this_request = self._owes_no_answer() or (
            self.cycle.more_body and not self.cycle.response_started and not self.pipeline
        )
        if not concerns_this_request:
            self.transport.end()
            return
        if self.scope is not None:
            self.scope[_REFUSAL] = 400  # type: ignore[literal-required]
        self._answer_and_linger(_refusal(400, msg))

    def on_headers_complete(self) -> None:
        """Ends the limits of a head that is complete."""
        self._pending_bytes = 0
        self._is_receiving = True
        self._lift_time_limit()
        super().on_headers_complete()
        # The record knows the scope. If the scope also kept the record, only Python's search for
        # garbage could free what a request leaves.
        self.scope[_CYCLE] = weakref.ref(self.cycle)  # type: ignore[literal-required]

    def on_body(self, body: bytes) -> None:
        """Starts to count anew: a piece of a body is no part of a head."""
        self._pending_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Does nothing behind a head with an offer, where only uvicorn's parser has ended."""
        if not self.parser.should_upgrade():
            self._is_receiving = False
            super().on_message_complete()

    def _parse(self, data: memoryview) -> None:
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserError as error:
                self.send_400_response(f"the request is not valid HTTP/1.1: {error}")
            except httptools.HttpParserUpgrade as offer:
                data = data[offer.args[0] :]
                self._parse_without_offer()
                continue
            return

    def _parse_without_offer(self) -> None:
        """Goes on with a new parser, to which the same head is told without its offer."""
        method = self.parser.get_method()
        headers = (b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade")
        callbacks = _CallbacksAfterHead(self)
        self.parser = httptools.HttpRequestParser(callbacks)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.parser.feed_data(b"%b %b HTTP/1.1\r\n%b\r\n" % (method, self.url, b"".join(headers)))
        callbacks.head_is_known = False

    def _owes_no_answer(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _limit_time(self) -> None:
        self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.end)

    def _lift_time_limit(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self) -> None:
        # While an answer is owed, the client would take the 431 for that answer.
        if self._owes_no_answer():
            self._answer_and_linger(_TOO_LARGE)
        else:
            self.transport.end()

    def _answer_and_linger(self, answer: bytes) -> None:
        self._is_receiving = True
        self.transport.write(answer)
        self.transport.close()
        if not self._owes_no_answer():
            # The application must not wait for a body of which nothing is parsed any more.
            self.cycle.disconnected = True
            self.cycle.message_event.set()


class _CallbacksAfterHead:
    """What a parser calls: nothing for the head of its first request, then the protocol."""

    def __init__(self, protocol: BoundedHttpProtocol) -> None:
        self.head_is_known = True
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete
        self.on_message_begin = self._unless_known(protocol.on_message_begin)
        self.on_url = self._unless_known(protocol.on_url)
        self.on_header = self._unless_known(protocol.on_header)
        self.on_headers_complete = self._unless_known(protocol.on_headers_complete)

    def _unless_known(self, callback: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: bytes) -> None:
            if not self.head_is_known:
                callback(*arguments)

        return call
