"""uvicorn with bounds on the size and time of what a client sends before an application sees it.

It also answers clients that uvicorn (0.54) leaves without an answer: those that offer another
protocol, those that close their half of the connection, and those that still send when their answer
is known. Errors of HTTP itself are problems. All of this needs methods and attributes of uvicorn
that are not documented. So pyproject.toml bounds its version, and a test fails when they change.
"""

import asyncio
import weakref
from collections.abc import Callable, MutableMapping
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from runtime.server.ignored_offer import parser_behind_head
from runtime.server.lingering_close import LingeringClose
from runtime.server.unseen_refusal import refusal

MAX_HEAD_BYTES = 64 << 10  # of a request line with all its headers; browsers send under 16 kB
HEAD_SECONDS = 20.0  # from the connection, or the first byte after an answer, to the whole head
_GATHERED_BYTES = 16 << 10
CYCLE = "skd_edge.cycle"  # in the scope: a weak reference to uvicorn's record of the request
REFUSAL = "skd_edge.refusal"  # in the scope: the status that was sent instead of the answer
_TOO_LARGE = refusal(
    431, f"the head of the request has over {MAX_HEAD_BYTES} bytes, the limit; send fewer headers"
)


def is_received(scope: MutableMapping[str, Any]) -> bool:
    """Whether all of a request is here, so that nothing waits for its client any more."""
    cycle = scope[CYCLE]() if CYCLE in scope else None
    return cycle is not None and not cycle.more_body


class GatheredWrites:
    """A transport that sends in one piece what is written in one turn of the event loop.

    uvicorn writes the head and the body of an answer separately. That makes two system calls and
    two packets, and the second one wakes the client again. It took a tenth of the time of a small
    answer.

    It also pauses reading at the end of a turn only. uvicorn pauses it for every body over 64 KiB,
    even if all of it is here, and goes on in the same turn. That took a tenth of the loop's time.

    And it closes with `LingeringClose` where the client has more to send.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        is_receiving: Callable[[], bool] = lambda: False,
    ) -> None:
        """Sends by `transport`; `is_receiving` says whether the client has more to send."""
        self._transport = transport
        self._loop = loop
        self._is_receiving = is_receiving
        self._lingering: LingeringClose | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._shall_pause = self._is_paused = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Keeps `data` until the next turn of the loop, or sends all at once if it is much."""
        if self._lingering:
            return
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)
        self._size += len(data)
        # The transport must know of much data, because it slows down whoever writes too fast.
        if self._size >= _GATHERED_BYTES:
            self._flush()

    def pause_reading(self) -> None:
        """Reads nothing more from the next turn on, unless reading goes on before that."""
        self._shall_pause = not self._lingering
        self._loop.call_soon(self._pause)

    def resume_reading(self) -> None:
        """Reads again."""
        self._shall_pause = False
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    def _pause(self) -> None:
        if self._shall_pause and not self._is_paused and not self._transport.is_closing():
            self._is_paused = True
            self._transport.pause_reading()

    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._lingering is not None or self._transport.is_closing()

    def close(self) -> None:
        """Sends what was written, then closes, at once or when the client is done."""
        if not self._is_receiving() or self._transport.is_closing():
            self.end()
        elif self._lingering is None:
            self._flush()
            self._lingering = LingeringClose(self._transport, self._loop)
            self.resume_reading()

    def end(self) -> None:
        """Sends what was written, then closes the connection now, whatever its client sends."""
        self._flush()
        self._transport.close()

    def drop(self, size: int) -> None:
        """Counts `size` bytes that came behind `close`."""
        if self._lingering:
            self._lingering.drop(size)

    def lost(self) -> None:
        """Ends the time limits; to be called when the connection is lost."""
        if self._lingering:
            self._lingering.lost()

    def _flush(self) -> None:
        if self._pieces:
            self._transport.write(b"".join(self._pieces))
            self._pieces, self._size = [], 0


class BoundedHttpProtocol(HttpToolsProtocol):
    """HTTP/1.1 with limits: a head over MAX_HEAD_BYTES gets a 431, a late one is not waited for.

    Without these limits, uvicorn (0.54) waits for ever, and keeps everything that comes of a head,
    of the trailers of a chunked body, and of what still follows an early answer.

    An offer of another protocol (`Upgrade: h2c`, `websocket`, ...) is ignored, as RFC 9110, section
    7.8, allows, and the request is answered. uvicorn's parser ends with such a head, and uvicorn
    drops the body.

    Where an answer ends the connection before all of its request has come, the rest is read and
    dropped (`LingeringClose`). Otherwise the client would lose the answer.
    """

    transport: GatheredWrites  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the time limit of the first head."""
        self._pending_bytes = 0  # since a head was complete, or a piece of a body came
        self._deadline: asyncio.TimerHandle | None = None
        self._is_receiving = False  # whether the client still sends
        self._is_ending = False  # whether nothing is parsed any more, and answers are still owed
        gathered: Any = GatheredWrites(transport, self.loop, lambda: self._is_receiving)
        super().connection_made(gathered)
        self._limit_time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the time limits with the connection."""
        self._lift_time_limit()
        self.transport.lost()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses data, at most as much as a head may still have."""
        if self._parses_nothing():
            self.transport.drop(len(data))
            return
        rest = memoryview(data)  # its slices are no copies
        while rest and not self._parses_nothing():
            room = MAX_HEAD_BYTES - self._pending_bytes
            if room == 0:
                self._refuse()
                return
            piece, rest = rest[:room], rest[room:]
            self._pending_bytes += len(piece)
            self._unset_keepalive_if_required()
            self._parse(piece)
        if self._deadline is None and self._owes_no_answer() and not self._parses_nothing():
            self._limit_time()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Keeps the connection until the answer is sent, if the client has sent a whole request.

        Such a client has closed only its own half (`shutdown(SHUT_WR)`), and waits for the answer.
        An answer that has begun ends, because it may be a stream without an end.
        """
        self._is_receiving = False
        if not self._owes_no_answer() and self.cycle.response_started:
            self.transport.end()
        if self.transport.is_closing():
            return None
        return self._end_behind_answers() or None

    def send_400_response(self, msg: str) -> None:
        """Refuses what is not HTTP, and closes the connection."""
        # While the answer of an earlier request is owed, the client would take this for it.
        concerns_this_request = self._owes_no_answer() or (
            self.cycle.more_body and not self.cycle.response_started and not self.pipeline
        )
        if not concerns_this_request:
            self._drop_what_follows()
            return
        if self.scope is not None:
            self.scope[REFUSAL] = 400  # type: ignore[literal-required]
        self._answer_and_linger(refusal(400, msg))

    def on_headers_complete(self) -> None:
        """Ends the limits of a head that is complete.

        Raises:
            ValueError: for the client. CONNECT makes the parser take a body for another protocol.
        """
        if self.parser.get_method() == b"CONNECT":
            raise ValueError("CONNECT is for proxies, and this is none")
        self._pending_bytes = 0
        self._is_receiving = True
        self._lift_time_limit()
        former = self.cycle
        super().on_headers_complete()
        if self.pipeline:
            self._former = former  # an answer to it is owed
        # The record knows the scope. If the scope also kept the record, only Python's search for
        # garbage could free what a request leaves.
        self.scope[CYCLE] = weakref.ref(self.cycle)  # type: ignore[literal-required]

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
        try:
            while data:
                data = self._behind_offer(data)
        except httptools.HttpParserError as error:
            reason = error.__context__ if isinstance(error.__context__, ValueError) else error
            self.send_400_response(f"the request is not valid HTTP/1.1: {reason}")

    def _behind_offer(self, data: memoryview) -> memoryview:
        """Parses data; what follows a head with an offer is returned instead."""
        try:
            self.parser.feed_data(data)
            return data[:0]
        except httptools.HttpParserUpgrade as offer:
            behind = data[offer.args[0] :]
        self.parser, tell_head = parser_behind_head(self, self.parser.get_method())
        tell_head()  # it fails behind a method of RTSP, whose version the parser does not tell
        return behind

    def _owes_no_answer(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _parses_nothing(self) -> bool:
        return self._is_ending or self.transport.is_closing()

    def _end_behind_answers(self) -> bool:
        """Closes as soon as all whole requests are answered; False: it has closed now."""
        if self.pipeline and self.cycle.more_body:
            self.pipeline.popleft()  # its rest never comes, and nobody has begun with it
            self.cycle = self._former
        if self._owes_no_answer() or self.cycle.more_body:
            self.transport.end()
            return False
        self.cycle.keep_alive = False  # uvicorn closes the connection behind the answer
        self._is_ending = True
        return True

    def _drop_what_follows(self) -> None:
        self._is_receiving = True
        self._end_behind_answers()

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
            self._drop_what_follows()

    def _answer_and_linger(self, answer: bytes) -> None:
        self._is_receiving = True
        self.transport.write(answer)
        self.transport.close()
        if not self._owes_no_answer():
            # The application must not wait for a body of which nothing is parsed any more.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
