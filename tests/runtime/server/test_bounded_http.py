"""Clients that send too much of a request's head, or too slowly, over real sockets."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import uvicorn

from runtime.server import bounded_http
from runtime.server.bounded_http import MAX_HEAD_BYTES, GatheredWrites, server_config

SECONDS = 0.6  # instead of HEAD_SECONDS
SLOW = 1.5 * SECONDS
Connect = Callable[[], socket.socket]


async def application(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
    """Answers before it reads (/early), or late (/slow), or with the body of the request."""
    body, more = b"", scope["path"] != "/early"
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if scope["path"] == "/slow":
        await asyncio.sleep(SLOW)
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Opens connections to a server with a short time limit."""
    monkeypatch.setattr(bounded_http, "HEAD_SECONDS", SECONDS)
    server = uvicorn.Server(server_config(application, port=0, lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    opened: list[socket.socket] = []

    def open_connection() -> socket.socket:
        opened.append(socket.create_connection(server.servers[0].sockets[0].getsockname()))
        opened[-1].settimeout(20)
        return opened[-1]

    try:
        while not server.started:
            time.sleep(0.005)
        yield open_connection
    finally:
        for connection in opened:
            connection.close()
        server.should_exit = True
        thread.join()


def everything(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    found = b""
    with suppress(ConnectionResetError):  # it closed before it had read all that was sent
        while piece := connection.recv(1 << 16):
            found += piece
    return found


def head(size: int) -> bytes:
    """A request of `size` bytes."""
    frame = b"GET / HTTP/1.1\r\nHost: x\r\nA: %b\r\n\r\n"
    return frame % (b"a" * (size - len(frame) + 2))


@pytest.mark.parametrize(
    ("begin", "again"),
    [
        (b"GET /", b"a" * 4096),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: ", b"a" * 4096),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"A: b\r\n" * 700),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"a" * 4096),
        (b"", b"\r\n" * 2048),
    ],
)
def test_an_endless_head_is_431(connect: Connect, begin: bytes, again: bytes) -> None:
    connection = connect()
    connection.sendall(begin)
    sent = 0
    with suppress(ConnectionError):
        while sent < 64 * MAX_HEAD_BYTES:
            sent += connection.send(again)
    first, _, body = everything(connection).partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 431 ")
    assert b"application/problem+json" in first
    assert json.loads(body)["status"] == 431
    assert str(MAX_HEAD_BYTES) in json.loads(body)["detail"]


def test_the_limit_is_exact_however_the_head_arrives(connect: Connect) -> None:
    for size, status in ((MAX_HEAD_BYTES, b"200"), (MAX_HEAD_BYTES + 1, b"431")):
        for piece in (size, 50_000, 1000):
            connection, request = connect(), head(size)
            assert len(request) == size
            for start in range(0, size, piece):
                connection.sendall(request[start : start + piece])
            assert connection.recv(12) == b"HTTP/1.1 " + status


def closed_after(connection: socket.socket, trickle: bytes) -> float:
    """Seconds until the server closes on a client that sends `trickle` again and again."""
    started = time.monotonic()
    connection.settimeout(SECONDS / 10)
    while time.monotonic() - started < 10 * SECONDS:
        try:
            connection.sendall(trickle)
            if not connection.recv(1 << 16):
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    return time.monotonic() - started


@pytest.mark.parametrize("trickle", [b"", b"a", b"\r\n"])
def test_a_head_that_trickles_in_is_not_waited_for(connect: Connect, trickle: bytes) -> None:
    first = connect()
    if trickle == b"a":
        first.sendall(b"GET /")
    assert 0.9 * SECONDS < closed_after(first, trickle) < 3 * SECONDS
    later = connect()  # its first request is in order
    later.sendall(head(100))
    assert later.recv(1 << 16).startswith(b"HTTP/1.1 200")
    later.sendall(b"\r\n")  # ends uvicorn's own wait for the next request
    assert closed_after(later, trickle) < 3 * SECONDS


def test_what_follows_an_early_answer_is_not_waited_for(connect: Connect) -> None:
    connection = connect()
    connection.sendall(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n")
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
    assert closed_after(connection, b"a") < 3 * SECONDS


def test_endless_trailers_are_cut_off(connect: Connect) -> None:
    connection = connect()
    connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: ")
    answer = b""
    with suppress(ConnectionError):  # or the end of the stream, if all was still taken
        connection.sendall(b"a" * (4 * MAX_HEAD_BYTES))
        answer = connection.recv(1)
    assert answer == b""


def test_an_answer_may_take_longer_than_a_head(connect: Connect) -> None:
    connection = connect()
    connection.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
    connection.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\nGET /")  # and half of the next
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_a_large_body_and_requests_in_a_row_arrive_whole(connect: Connect) -> None:
    body = bytes(range(256)) * 20_000
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    connection = connect()
    sending = threading.Thread(target=connection.sendall, args=(3 * request,))
    sending.start()
    for _ in range(3):
        found = b""
        while b"\r\n\r\n" not in found:
            found += connection.recv(1)
        found = b""
        while len(found) < len(body):
            found += connection.recv(len(body) - len(found))
        assert found == body
    sending.join()


class RecordingTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[bytes | str] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.calls.append(bytes(data))

    def close(self) -> None:
        self.calls.append("close")


def test_what_is_written_in_one_turn_leaves_in_one_piece() -> None:
    async def calls() -> list[list[bytes | str]]:
        transport = RecordingTransport()
        gathered = GatheredWrites(transport, asyncio.get_running_loop())
        seen = []
        for turn in ((b"head", b"body"), (b"more",), (b"x" * 20_000, b"y")):
            for piece in turn:
                gathered.write(piece)
            seen.append(list(transport.calls))
            await asyncio.sleep(0)
        gathered.write(b"last")
        gathered.close()
        await asyncio.sleep(0)
        return [*seen, transport.calls]

    first, second, third, end = asyncio.run(calls())
    assert first == []
    assert second == [b"headbody"]
    assert third == [b"headbody", b"more", b"x" * 20_000]  # much is passed on at once
    assert end == [*third, b"y", b"last", "close"]
