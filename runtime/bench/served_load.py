"""What a server of this machine does with clients that wait for their answers."""

import asyncio
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

from runtime.base.errors import BackendError

_LISTENING = "listening on "
_HEAD_END = b"\r\n\r\n"
_NICENESS = 5  # real clients run on other machines: here they must not be late
_WARM_SHARE = 0.2  # of the time
_LAST_WORDS_SECONDS = 2.0
_TICK = 0.001  # seconds between two looks at the clock
_SEED = 2
_LOST = (ConnectionError, asyncio.IncompleteReadError)  # a connection that the server has closed
T = TypeVar("T")


@contextmanager
def served(model: Path, options: Sequence[str], *, token_variable: str) -> Iterator[str]:
    """The address of `python -m runtime serve` on the model while the block runs.

    Raises:
        BackendError: the server does not start, or ends before the block; the words are its own.
    """
    command = [sys.executable, "-m", "runtime", "serve", str(model.resolve()), "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if name != token_variable}
    with subprocess.Popen(
        ["nice", "-n", str(_NICENESS), *command, *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            lines = (line for line in process.stdout if line.startswith(_LISTENING))
            found = next(lines, None)
            if found is None:
                raise BackendError(f"the server does not start: {_last_words(process.stderr)}")
            try:
                yield found.removeprefix(_LISTENING).split()[0]
            except _LOST:
                # It says why it ends when its connections are closed. It need not end, though.
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_LAST_WORDS_SECONDS)
                process.kill()
                words = _last_words(process.stderr)
                raise BackendError(
                    f"the server ended while it was measured: {words}; run the command again"
                ) from None
        finally:
            process.kill()  # nothing that it has is needed any more
            process.wait()


def _last_words(stderr: IO[str]) -> str:
    return (stderr.read().strip().splitlines() or ["it said nothing"])[-1]


def closed_loop(
    address: str, bodies: Sequence[bytes], *, clients: int, seconds: float
) -> tuple[list[float], float]:
    """Seconds of each answer to `clients` that each wait for theirs, and answers a second.

    Raises:
        BackendError: an answer has another status than 200 and 503.
    """
    return _run(_closed_loop(address, bodies, clients=clients, seconds=seconds))


def open_loop(address: str, bodies: Sequence[bytes], *, rate: float, seconds: float) -> list[float]:
    """Seconds of each answer to requests that come at random, `rate` a second (Poisson).

    A request that the server refuses because its queue is full (503) counts as never answered: inf.

    Raises:
        BackendError: an answer has another status.
    """
    return _run(_open_loop(address, bodies, rate=rate, seconds=seconds))


def _run(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns. SIGINT and SIGTERM cancel it, and then KeyboardInterrupt is raised.

    Python raises KeyboardInterrupt in whatever runs. In a callback of the loop it would be printed
    as the loop's own failure.
    """
    import uvloop  # of the extra `serve`, without which there is no server to measure

    interrupted = False

    async def cancelled_by_signals() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # a coroutine that runs is of a task

        def interrupt(*_: object) -> None:
            nonlocal interrupted
            interrupted = True
            loop.call_soon_threadsafe(task.cancel)

        both = (signal.SIGINT, signal.SIGTERM)
        heard = [name for name in both if signal.getsignal(name) != signal.SIG_IGN]
        former = {name: signal.signal(name, interrupt) for name in heard}
        try:
            return await work
        finally:
            for name, handler in former.items():
                signal.signal(name, handler)

    try:
        done: T = uvloop.run(cancelled_by_signals())
    finally:
        if interrupted:  # `work` may have ended before it was cancelled, or with another error
            raise KeyboardInterrupt from None
    return done


async def _closed_loop(
    address: str, bodies: Sequence[bytes], *, clients: int, seconds: float
) -> tuple[list[float], float]:
    parts = urlsplit(address)
    times: list[float] = []
    started = time.perf_counter()
    warm, end = started + _WARM_SHARE * seconds, started + seconds

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        turn = number
        while (sent := time.perf_counter()) < end:
            await _post(reader, writer, parts.netloc, bodies[turn % len(bodies)])
            if sent >= warm:
                times.append(time.perf_counter() - sent)
            turn += clients
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return times, len(times) / (time.perf_counter() - warm)


async def _open_loop(
    address: str, bodies: Sequence[bytes], *, rate: float, seconds: float
) -> list[float]:
    parts = urlsplit(address)
    times: list[float] = []
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    generator = random.Random(_SEED)

    async def one(body: bytes) -> None:
        while idle:
            streams, sent = idle.pop(), time.perf_counter()
            try:
                answered = await _post(*streams, parts.netloc, body)
                break
            except _LOST:  # the server closes a connection on which nothing has come for a while
                continue
        else:
            streams = await asyncio.open_connection(parts.hostname, parts.port)
            sent = time.perf_counter()
            answered = await _post(*streams, parts.netloc, body)
        times.append(time.perf_counter() - sent if answered else math.inf)
        idle.append(streams)

    running: list[asyncio.Task[None]] = []
    started, due = time.perf_counter(), 0.0
    try:
        while (elapsed := time.perf_counter() - started) < seconds:
            while due < elapsed:
                due += generator.expovariate(rate)
                running.append(asyncio.ensure_future(one(bodies[len(running) % len(bodies)])))
            await asyncio.sleep(_TICK)
        await asyncio.gather(*running)
    finally:
        for _, writer in idle:
            writer.close()
    return times


async def _post(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, body: bytes
) -> bool:
    """Whether the picture was answered; False: the queue is full. Errors close the connection."""
    try:
        return await _answered(reader, writer, host, body)
    except BaseException:
        writer.close()
        raise


async def _answered(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, body: bytes
) -> bool:
    head = (
        f"POST /v1/classify HTTP/1.1\r\nHost: {host}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    answer = await reader.readuntil(_HEAD_END)
    fields = answer.lower().split(b"\r\n")
    length = next(int(f.split(b":")[1]) for f in fields if f.startswith(b"content-length:"))
    said = await reader.readexactly(length)
    status = answer.split(b" ", 2)[1]
    if status not in (b"200", b"503"):
        words = said.decode(errors="replace")[:200]
        raise BackendError(f"the server answers {status.decode()}: {words}")
    return status == b"200"
