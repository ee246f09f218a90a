"""A load generator for HTTP/1.1 that takes little processor time itself."""

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import uvloop
from servers import processor_seconds

from runtime.bench.sample_images import sample_jpeg

PHOTOS = 10
_SAMPLES = 10_000
_HEAD_END = b"\r\n\r\n"


def sample_bodies(bundle: Path, kind: str) -> list[bytes]:
    """The bundle's `examples`, or `photos`: JPEG files of 640x480 pixels and 80 kB."""
    if kind == "examples":
        return [path.read_bytes() for path in sorted((bundle / "examples").iterdir())]
    return [sample_jpeg(seed) for seed in range(PHOTOS)]


def median_with_interval(values: list[float]) -> dict[str, float | list[float]]:
    """The median, and its 95 % interval by the bootstrap over the values."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(_SAMPLES))
    interval = [round(medians[int(share * _SAMPLES)], 3) for share in (0.025, 0.975)]
    return {"median": round(statistics.median(values), 3), "interval": interval}


@dataclass
class Load:
    """What came back: the seconds of each answer, by status, and how many connections broke."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    broken: int = 0
    wall: float = 0.0

    def add(self, status: int, seconds: float) -> None:
        self.seconds.setdefault(status, []).append(seconds)

    @property
    def statuses(self) -> Counter[int]:
        return Counter({status: len(times) for status, times in self.seconds.items()})

    def per_second(self, status: int = 200) -> float:
        return len(self.seconds.get(status, ())) / self.wall

    def percentile(self, share: float, status: int = 200) -> float:
        """The seconds within which `share` of the answers with `status` came."""
        times = sorted(self.seconds.get(status, [0.0]))
        return times[min(len(times) - 1, int(share * len(times)))]


class Connection:
    """One keep-alive connection; sends one request at a time."""

    def __init__(
        self, url: str, content_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._head = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Content-Type: {content_type}\r\n"
            + "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        ).encode()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, body: bytes) -> tuple[int, bytes]:
        """The status and body of the answer.

        A server may close an idle connection just when the next request is on its way; then, as
        HTTP clients do, it is sent once more on a new one.
        """
        reused = self._streams is not None
        try:
            reader, head = await self._send(body)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            self.close()
            if not reused or getattr(error, "partial", b""):
                raise
            reader, head = await self._send(body)
        fields = head.lower().split(b"\r\n")
        length = next(int(f.split(b":")[1]) for f in fields if f.startswith(b"content-length:"))
        answer = await reader.readexactly(length)
        if b"connection: close" in fields:
            self.close()
        return int(head.split(b" ", 2)[1]), answer

    async def _send(self, body: bytes) -> tuple[asyncio.StreamReader, bytes]:
        """Sends a request and reads the head of its answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        writer.write(self._head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        return reader, await reader.readuntil(_HEAD_END)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@dataclass(frozen=True)
class Target:
    """What of a running server is asked, and with what."""

    url: str
    bodies: list[bytes]
    content_type: str = "application/octet-stream"
    headers: Mapping[str, str] | None = None

    def connect(self) -> Connection:
        return Connection(self.url, self.content_type, self.headers)

    def load(self, clients: int, seconds: float) -> Load:
        """What `closed_loop` gives, in an event loop of its own."""
        return uvloop.run(closed_loop(self, clients=clients, seconds=seconds))


@dataclass
class Turns:
    """What one target did in its turns: answers a second, and the server's time for each."""

    per_second: list[float] = field(default_factory=list)
    processor_ms: list[float] = field(default_factory=list)


def in_turns(
    targets: Mapping[str, tuple[Target, int]], *, turns: int, clients: int, seconds: float
) -> dict[str, Turns]:
    """Asks targets in turn, in a new order each time, so that all meet the same other load.

    Args:
        targets: each with the process id of its server, by name.
        turns: how often each is asked, after a first turn that warms up.
        clients: that ask at the same time.
        seconds: of each turn.
    """
    rng = random.Random(0)
    found = {name: Turns() for name in targets}
    for turn in range(-1, turns):
        for name in rng.sample(list(targets), len(targets)):
            target, process = targets[name]
            before = processor_seconds(process)
            load = target.load(clients, seconds)
            used = processor_seconds(process) - before
            assert set(load.statuses) == {200}, load.statuses
            if turn >= 0:
                found[name].per_second.append(load.per_second())
                found[name].processor_ms.append(1e3 * used / load.statuses[200])
    return found


async def closed_loop(target: Target, *, clients: int, seconds: float) -> Load:
    """The load of `clients` that each send a request as soon as their last one is answered."""
    load = Load()
    started = time.perf_counter()
    end = started + seconds

    async def client(number: int) -> None:
        connection = target.connect()
        turn = number
        while (now := time.perf_counter()) < end:
            status, _ = await connection.post(target.bodies[turn % len(target.bodies)])
            load.add(status, time.perf_counter() - now)
            turn += clients
        connection.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    load.wall = time.perf_counter() - started
    return load


async def open_loop(
    target: Target, *, rate: float, seconds: float, random_seed: int | None = None
) -> Load:
    """The load of requests at a fixed `rate` a second, however long their answers take.

    With a `random_seed` they come at random (Poisson), `rate` a second on average.
    """
    generator = random.Random(random_seed)
    load = Load()
    idle: list[Connection] = []
    running: set[asyncio.Task[None]] = set()
    started = time.perf_counter()

    async def one(body: bytes) -> None:
        connection = idle.pop() if idle else target.connect()
        now = time.perf_counter()
        try:
            status, _ = await connection.post(body)
        except (OSError, asyncio.IncompleteReadError):
            load.broken += 1
            connection.close()
        else:
            load.add(status, time.perf_counter() - now)
        idle.append(connection)

    sent, due = 0, 0.0
    while (elapsed := time.perf_counter() - started) < seconds:
        while due < elapsed:
            due += 1 / rate if random_seed is None else generator.expovariate(rate)
            task = asyncio.ensure_future(one(target.bodies[sent % len(target.bodies)]))
            running.add(task)
            task.add_done_callback(running.discard)
            sent += 1
        await asyncio.sleep(0.002 if random_seed is None else 0.001)
    await asyncio.gather(*running)
    load.wall = time.perf_counter() - started
    for connection in idle:
        connection.close()
    return load
