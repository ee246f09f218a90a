"""Clients that still send when their answer is there: they get it, and hold nothing for ever."""

import collections
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from runtime import Batcher, open_classifier
from runtime.server import lingering_close
from runtime.server.admission import ServerSettings
from runtime.server.api import build_api
from runtime.server.server_config import server_config

LARGE = 3 << 20  # more than the buffers of both sockets
LIMIT = 100_000


class Served:
    """A server in a thread, and how many connections it has."""

    def __init__(self, server: uvicorn.Server) -> None:
        self.server = server
        self.address: tuple[str, int] = server.servers[0].sockets[0].getsockname()

    def connections(self) -> int:
        return len(self.server.server_state.connections)

    def freed(self, within: float) -> bool:
        """Whether the server has no connection any more after at most `within` seconds."""
        end = time.monotonic() + within
        while self.connections() and time.monotonic() < end:
            time.sleep(0.01)
        return not self.connections()


@contextmanager
def served(application: object) -> Iterator[Served]:
    server = uvicorn.Server(server_config(application, port=0))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        yield Served(server)
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def api(toy_bundle: Path) -> Iterator[Served]:
    settings = ServerSettings(max_body_bytes=LIMIT, max_images=2, token="secret")
    with (
        open_classifier(toy_bundle) as classifier,
        Batcher(classifier) as batcher,
        served(build_api(batcher, settings=settings)) as running,
    ):
        yield running


def form(parts: int) -> bytes:
    part = b'--b\r\nContent-Disposition: form-data; name="i"; filename="a"\r\n\r\n%b\r\n'
    return parts * (part % bytes(LARGE // parts)) + b"--b--\r\n"


TOKEN = {"Authorization": "Bearer secret"}
PNG = {"Content-Type": "image/png"}
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
NAME = "/v2/models/colours-toy"


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/classify", PNG, 401),
        ("/nowhere", TOKEN | PNG, 404),
        ("/healthz", TOKEN | PNG, 405),
        ("/v1/classify", TOKEN | PNG, 413),
        ("/v1/classify", TOKEN | FORM, 413),
        ("/v1/classify", TOKEN | {"Content-Type": "text/plain"}, 415),
        ("/v1/classify", TOKEN | PNG | {"Content-Encoding": "gzip"}, 415),
        ("/v1/classify?top_k=0", TOKEN | PNG, 422),
        (f"{NAME}/infer", PNG, 401),
        ("/v2/models/nobody/infer", TOKEN, 404),
        (f"{NAME}/infer", TOKEN, 413),
    ],
)
def test_a_client_that_sends_all_before_it_reads_gets_its_answer(
    api: Served, path: str, headers: dict[str, str], status: int, connection: str
) -> None:
    body = form(10) if "multipart" in headers.get("Content-Type", "") else bytes(LARGE)
    found: collections.Counter[int] = collections.Counter()
    for _ in range(4):
        client = http.client.HTTPConnection(*api.address, timeout=20)
        client.request("POST", path, body, {**headers, "Connection": connection})
        response = client.getresponse()
        assert response.read().startswith(b"{")
        found[response.status] += 1
        client.close()
    assert found == {status: 4}


def test_a_body_without_a_length_is_413_too(api: Served) -> None:
    client = http.client.HTTPConnection(*api.address, timeout=20)
    pieces = (bytes(1 << 16) for _ in range(LARGE >> 16))
    client.request("POST", "/v1/classify", pieces, TOKEN | PNG, encode_chunked=True)
    assert client.getresponse().status == 413
    client.close()


REFUSED = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"


def refused(api: Served) -> socket.socket:
    """A connection that was answered 404 and owes most of its body."""
    connection = socket.create_connection(api.address, timeout=20)
    connection.sendall(REFUSED % 10**12)
    found = b""
    while piece := connection.recv(1 << 16):
        found += piece
    assert found.startswith(b"HTTP/1.1 404 ")
    return connection


def ended(connection: socket.socket, piece: bytes, pause: float) -> float:
    """Seconds for which the server takes `piece` again and again."""
    started = time.monotonic()
    try:
        while time.monotonic() < started + 10:
            connection.sendall(piece)
            time.sleep(pause)
    except ConnectionError:
        return time.monotonic() - started
    raise AssertionError("the server reads for ever")


@pytest.mark.parametrize(
    ("limit", "value", "piece", "pause"),
    [
        ("LINGER_SECONDS", 0.6, b"a", 0.02),
        ("LINGER_BYTES", 1 << 20, bytes(1 << 16), 0.0),
    ],
)
def test_what_is_still_sent_is_bounded(
    api: Served,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    value: float,
    piece: bytes,
    pause: float,
) -> None:
    monkeypatch.setattr(lingering_close, limit, value)
    connection = refused(api)
    assert api.connections() == 1
    assert ended(connection, piece, pause) < 3
    assert api.freed(within=1)
    connection.close()


def test_a_silent_client_is_not_waited_for(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering_close, "SILENT_SECONDS", 0.4)
    connection = refused(api)
    for _ in range(6):  # it is not silent yet
        connection.sendall(b"a")
        time.sleep(0.1)
    assert api.connections() == 1
    assert api.freed(within=2)
    connection.close()


def test_a_client_that_leaves_frees_its_connection(api: Served) -> None:
    connection = refused(api)
    assert api.connections() == 1
    connection.close()
    assert api.freed(within=2)


def test_a_whole_request_is_closed_at_once(api: Served) -> None:
    connection = socket.create_connection(api.address, timeout=20)
    connection.sendall(REFUSED % 3 + b"abc")
    while connection.recv(1 << 16):
        pass
    assert api.freed(within=1)  # the client has not closed its half
    connection.close()


async def _reads(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
    """Waits for its body, and says in `ends` with which message that ended."""
    if scope["type"] != "http":
        return
    message = await receive()
    while message.get("more_body"):
        message = await receive()
    ends.append(message["type"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


ends: list[str] = []


def test_an_application_does_not_wait_for_a_body_that_is_no_http() -> None:
    """Otherwise its bytes would stay in the budget until the client closes."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    with served(_reads) as running:
        connection = socket.create_connection(running.address, timeout=20)
        connection.sendall(head + b"no number\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 400 ")
        end = time.monotonic() + 2
        while not ends and time.monotonic() < end:
            time.sleep(0.01)
        assert ends == ["http.disconnect"]
        connection.close()
