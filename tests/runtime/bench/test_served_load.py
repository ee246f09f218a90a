"""What `plan` measures a server with: its errors are one line, and signals end it."""

import asyncio
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.base.errors import BackendError
from runtime.bench import capacity_plan, served_load
from runtime.bench.capacity_plan import measure_server
from runtime.bench.served_load import closed_loop, open_loop, served

pytest.importorskip("uvloop", reason="needs the extra `serve`")
SERVER = """#!{python}
import os, socket, sys, time
listener = socket.create_server(("127.0.0.1", 0))
print("loading")
print("listening on http://127.0.0.1:%d   API: /docs" % listener.getsockname()[1], flush=True)
{then}
time.sleep(0.1)
print("a warning", file=sys.stderr)
print("out of memory", file=sys.stderr, flush=True)
os._exit(1)
"""


@pytest.mark.parametrize(
    "then",
    {
        "before the first request": "listener.close()",
        "before an answer": "listener.accept()[0].recv(9)",
        "within an answer": "c = listener.accept()[0]; c.recv(9); c.sendall(b'HTTP/1.1 200 OK\\r')",
    }.values(),
)
def test_a_server_that_ends_while_it_is_measured_is_one_line(
    then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text(SERVER.format(python=sys.executable, then=then))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    line = "^the server ended while it was measured: out of memory; run the command again$"
    with (
        pytest.raises(BackendError, match=line),
        served(tmp_path, (), token_variable="TOKEN") as address,
    ):
        closed_loop(address, [b"picture"], clients=2, seconds=60)


@contextmanager
def answering_once() -> Iterator[tuple[str, list[int]]]:
    """The address of a server that closes each connection behind its first answer, and a count."""
    counted: list[int] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                    counted.append(1)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield "http://{}:{}".format(*listener.getsockname()), counted
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def test_a_connection_that_the_server_has_closed_is_not_used_again() -> None:
    with answering_once() as (address, counted):
        times = open_loop(address, [b"picture"], rate=20, seconds=1)
    assert len(times) == len(counted) >= 1


@pytest.fixture
def heard() -> Iterator[None]:
    """SIGINT is not ignored, as it is in what a shell starts behind the scenes."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("error", [None, ValueError("another error")])
def test_a_signal_that_comes_as_the_work_ends_is_not_lost(error: Exception | None) -> None:
    async def work() -> int:
        signal.raise_signal(signal.SIGINT)
        if error is not None:
            raise error
        return 5  # before the loop can cancel it

    with pytest.raises(KeyboardInterrupt):
        served_load._run(work())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("heard")
def test_an_ignored_signal_stays_ignored() -> None:
    async def work() -> int:
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(0.01)
        return 5

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert served_load._run(work()) == 5
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_work_that_no_signal_ends_gives_what_it_gives() -> None:
    assert served_load._run(asyncio.sleep(0, 5)) == 5
    with pytest.raises(asyncio.CancelledError):
        served_load._run(_cancelled())


async def _cancelled() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("silent", ["many clients", "one client", "clients at random"])
def test_a_server_that_answers_nothing_in_time_is_one_line(
    silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object, clients: int, seconds: float) -> tuple[list[float], float]:
        if silent == ("many clients" if clients > 1 else "one client"):
            return [], 0.0
        return [0.01, 0.02], 2 / seconds

    def opened(*_: object, **__: object) -> list[float]:
        return [] if silent == "clients at random" else [0.01]

    monkeypatch.setattr(capacity_plan, "served", lambda *_, **__: nullcontext("http://x"))
    monkeypatch.setattr(capacity_plan, "closed_loop", closed)
    monkeypatch.setattr(capacity_plan, "open_loop", opened)
    session = SimpleNamespace(max_batch=1, input_size=8, run=lambda images: images)
    classifier: Any = SimpleNamespace(session=session, prepare=len, close=lambda: None)
    seconds = 2 if silent == "clients at random" else 4
    line = f"^the server gave no answer that counts within {seconds} s; give a longer --seconds$"
    with pytest.raises(BackendError, match=line):
        measure_server(
            classifier,
            Path("model"),
            [b"picture"],
            cores=1,
            runners=1,
            on_cpu=True,
            max_batch=1,
            max_wait_ms=0.0,
            options=(),
            token_variable="TOKEN",
            seconds=4,
        )
