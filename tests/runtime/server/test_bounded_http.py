"""Clients that send too much of a request's head, or too slowly, over real sockets."""

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import uvicorn

from runtime.server import bounded_http
from runtime.server.bounded_http import MAX_HEAD_BYTES
from runtime.server.server_config import server_config

SECONDS = 0.6  # instead of HEAD_SECONDS
SLOW = 1.5 * SECONDS
Connect = Callable[[], socket.socket]
SEEN: list[str] = []  # the paths that the application was asked for


async def application(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
    """Answers before it reads (/early), or late (/slow), or at once, with the request's body."""
    SEEN.append(scope["path"])
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


OFFERS = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAA\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n",
    b"Upgrade: TLS/1.3, foo/2\r\nConnection: keep-alive, Upgrade\r\n",
)
BODY = bytes(range(256)) * 300


def answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """One whole answer with a content length: its head and its body."""
    found = b""
    while b"\r\n\r\n" not in found:
        piece = connection.recv(1)
        assert piece, found
        found += piece
    length = int(found.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body))
    return found, body


def framed(body: bytes, *, chunked: bool) -> tuple[bytes, bytes]:
    """The header that tells how long the body is, and the body as it is sent."""
    if not chunked:
        return b"Content-Length: %d\r\n" % len(body), body
    half = len(body) // 2
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]))
    return b"Transfer-Encoding: chunked\r\n", pieces + b"0\r\n\r\n"


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("pieces", ["at once", "head first", "small"])
def test_an_offer_of_another_protocol_is_ignored(
    connect: Connect, offer: bytes, chunked: bool, pieces: str
) -> None:
    length, sent = framed(BODY, chunked=chunked)
    beginning = b"POST /a HTTP/1.1\r\nHost: x\r\n" + offer + length + b"\r\n"
    connection = connect()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for body in (sent, sent):  # the connection is used again
        if pieces == "at once":
            connection.sendall(beginning + body)
        elif pieces == "head first":
            connection.sendall(beginning)
            time.sleep(0.05)
            connection.sendall(body)
        else:
            connection.sendall(beginning[:-3])
            for piece in (beginning[-3:-1], beginning[-1:] + body[:10], body[10:]):
                time.sleep(0.01)
                connection.sendall(piece)
        first, found = answer(connection)
        assert first.startswith(b"HTTP/1.1 200")
        assert found == BODY


def test_requests_in_one_packet_are_all_answered_after_an_offer(connect: Connect) -> None:
    get = b"GET / HTTP/1.1\r\nHost: x\r\n%b\r\n"
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n%b\r\nabc"
    connection = connect()
    connection.sendall(get % OFFERS[0] + post % b"" + post % OFFERS[1] + get % b"")
    assert [answer(connection)[1] for _ in range(4)] == [b"", b"abc", b"abc", b""]


def test_an_offer_keeps_the_limits_and_the_end_of_the_connection(connect: Connect) -> None:
    connection = connect()
    connection.sendall(b"POST / HTTP/1.0\r\n" + OFFERS[0] + b"Content-Length: 1\r\n\r\nx")
    assert everything(connection).endswith(b"\r\n\r\nx")  # HTTP/1.0: the server closes
    connection = connect()
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + OFFERS[0] + b"\r\n")
    assert answer(connection)[0].startswith(b"HTTP/1.1 200")
    connection.sendall(b"GET / HTTP/1.1\r\nA: ")
    for _ in range(2 * MAX_HEAD_BYTES // 4096):
        connection.sendall(b"a" * 4096)
    assert everything(connection).startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n",
        b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n",
        b"CONNECT /path HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
        b"DESCRIBE / RTSP/1.0\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",  # a client that speaks TLS
    ],
)
def test_what_is_not_http_is_a_problem(connect: Connect, request_bytes: bytes) -> None:
    connection = connect()
    connection.sendall(request_bytes)
    first, _, body = everything(connection).partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 400 Bad Request")
    assert b"content-type: application/problem+json" in first
    assert json.loads(body)["status"] == 400
    assert json.loads(body)["detail"].startswith("the request is not valid HTTP/1.1: ")


def test_a_tunnel_is_refused_before_the_application_sees_it(connect: Connect) -> None:
    connection = connect()
    SEEN.clear()
    connection.sendall(b"CONNECT /path HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
    assert b"CONNECT is for proxies" in everything(connection)
    assert not SEEN


NO_REQUESTS = {
    "nonsense": b"nonsense\r\n\r\n",
    "a tunnel": b"CONNECT /path HTTP/1.1\r\nHost: x\r\n\r\n",
    "no chunks": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n",
    "an endless head": b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * (4 * MAX_HEAD_BYTES),
}


@pytest.mark.parametrize("path", [b"/slow", b"/"])
@pytest.mark.parametrize("follows", NO_REQUESTS.values(), ids=NO_REQUESTS)
@pytest.mark.parametrize("whole", [1, 2])
def test_no_error_takes_the_place_of_an_answer_that_is_owed(
    connect: Connect, path: bytes, follows: bytes, whole: int
) -> None:
    connection = connect()
    connection.sendall(whole * (b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path) + follows)
    found = re.findall(rb"HTTP/1.1 (\d+)", everything(connection))
    assert found[:whole] == [b"200"] * whole
    if path == b"/slow":  # otherwise all may be answered before the rest comes, which is refused
        assert len(found) == whole


@pytest.mark.parametrize("path", [b"/slow", b"/"])
@pytest.mark.parametrize("offer", [b"", OFFERS[0]])
def test_a_client_that_closes_its_half_gets_its_answers(
    connect: Connect, offer: bytes, path: bytes
) -> None:
    request = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n%b\r\nabc" % (path, offer)
    for whole in (1, 2):
        connection = connect()
        connection.sendall(whole * request)
        connection.shutdown(socket.SHUT_WR)
        found = everything(connection)  # the server closes behind the last answer
        assert found.count(b"HTTP/1.1 200") == found.count(b"abc") == whole
        cut = connect()
        cut.sendall((whole - 1) * request + request[:-1])
        cut.shutdown(socket.SHUT_WR)
        found = everything(cut)  # the last body can never be complete
        assert found.count(b"HTTP/1.1 200") == found.count(b"abc") == whole - 1
