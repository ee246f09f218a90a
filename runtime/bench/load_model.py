"""How long requests wait in a server: a simulation of its threads, its batcher and its cores.

A request is read by the event loop, decoded, collected into a batch, run, and answered by the event
loop, as in `runtime.inference.batcher`. Threads that work at the same time share the cores, and the
event loop has priority. Only sums of measured times go in, so the simulation takes a second.
"""

import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

# The server's other threads have a niceness of 10 (Linux: a weight of 110 against 1024).
_LOOP_WEIGHT = 9.3
_HALVINGS = 14
_DONE = 1e-12  # seconds left, up to rounding
# The clock rounds, too: it loses up to half a unit in its last place at each step, which after a
# day of simulated time is more than _DONE. Such a rest could never be worked off.
_CLOCK_UNITS = 4
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Service:
    """What a server spends on requests, in seconds, and what it may use at the same time.

    Attributes:
        loop: of the event loop, for a request with one picture: half to read it, half to answer.
        decode: of a thread, for a picture.
        network: of a run of the network, for batches of 1, 2, ... up to the largest.
        cores: of the machine.
        runners: threads that run the network.
        max_wait: how long a picture waits for others that are being decoded.
        on_cpu: whether the network runs on the same cores.
    """

    loop: float
    decode: float
    network: tuple[float, ...]
    cores: int
    runners: int
    max_wait: float
    on_cpu: bool = True


@dataclass(eq=False)
class _Work:
    """What a thread does now: seconds left of it, and what follows."""

    left: float
    then: Callable[[], None]
    weight: float = 1.0
    needs_core: bool = True


class _Server:
    """One simulated server; `answered` is called with each request that is answered."""

    def __init__(self, service: Service, answered: Callable[[int], None]) -> None:
        self.now = 0.0
        self._service = service
        self._answered = answered
        self._active: list[_Work] = []
        self._loop_queue: deque[tuple[float, Callable[[], None]]] = deque()
        self._loop_busy = False
        self._undecoded: deque[int] = deque()
        self._decoding = 0  # accepted and not yet ready
        self._decoders = 0  # threads that are decoding
        self._ready: deque[int] = deque()
        self._running = 0
        self._deadline = math.inf

    def arrive(self, request: int) -> None:
        """A request comes now."""
        self._on_loop(lambda: self._accept(request))

    def next_event(self) -> float:
        """When something ends, or a wait is over."""
        ends = (work.left / rate for work, rate in self._rates() if rate > 0)
        return min(self.now + min(ends, default=math.inf), self._deadline)

    def advance(self, until: float) -> None:
        """Goes on to `until`, which is not after the next event."""
        step = until - self.now
        for work, rate in list(self._rates()):
            work.left -= rate * step
        self.now = until
        rounding = max(_DONE, _CLOCK_UNITS * math.ulp(until))
        done = [work for work in self._active if work.left <= rounding]
        for work in done:
            self._active.remove(work)
        for work in done:
            work.then()
        self._form_batches()

    def _rates(self) -> Iterator[tuple[_Work, float]]:
        """The share of a core that each work has; one that needs none goes at full speed."""
        sharing = sorted((w for w in self._active if w.needs_core), key=lambda w: -w.weight)
        cores, weights = float(self._service.cores), sum(work.weight for work in sharing)
        for work in sharing:
            rate = min(1.0, cores * work.weight / weights)
            cores, weights = cores - rate, weights - work.weight
            yield work, rate
        for work in self._active:
            if not work.needs_core:
                yield work, 1.0

    def _on_loop(self, then: Callable[[], None]) -> None:
        self._loop_queue.append((self._service.loop / 2, then))
        self._serve_loop()

    def _serve_loop(self) -> None:
        if self._loop_busy or not self._loop_queue:
            return
        seconds, then = self._loop_queue.popleft()
        self._loop_busy = True

        def end() -> None:
            self._loop_busy = False
            then()
            self._serve_loop()

        self._active.append(_Work(seconds, end, _LOOP_WEIGHT))

    def _accept(self, request: int) -> None:
        self._decoding += 1
        self._undecoded.append(request)
        self._decode()

    def _decode(self) -> None:
        if self._decoders == self._service.cores or not self._undecoded:
            return
        request = self._undecoded.popleft()
        self._decoders += 1

        def end() -> None:
            self._decoders -= 1
            self._decoding -= 1
            self._ready.append(request)
            self._decode()

        self._active.append(_Work(self._service.decode, end))

    def _form_batches(self) -> None:
        """What `Batcher._next_batch` does in each free runner."""
        service, most = self._service, len(self._service.network)
        while self._ready and self._running < service.runners:
            self._deadline = min(self._deadline, self.now + service.max_wait)
            share = min(most, -(-(len(self._ready) + self._decoding) // service.runners))
            full = self._decoding == 0 or len(self._ready) >= share
            if not full and self.now < self._deadline:
                return
            size = min(share, len(self._ready))
            batch = [self._ready.popleft() for _ in range(size)]
            self._deadline = math.inf
            self._running += 1
            work = _Work(service.network[size - 1], lambda batch=batch: self._finish(batch))  # type: ignore[misc]
            work.needs_core = service.on_cpu
            self._active.append(work)
        self._deadline = math.inf

    def _finish(self, batch: Sequence[int]) -> None:
        self._running -= 1
        for request in batch:
            self._on_loop(lambda request=request: self._answered(request))  # type: ignore[misc]


def open_latencies(service: Service, *, rate: float, requests: int) -> list[float]:
    """Seconds of each of `requests` that come at random, `rate` a second on average (Poisson)."""
    generator = random.Random(_SEED)
    arrived: list[float] = []
    seconds = [math.nan] * requests

    def answered(request: int) -> None:
        seconds[request] = server.now - arrived[request]

    server = _Server(service, answered)
    coming = 0.0
    for request in range(requests):
        coming += generator.expovariate(rate)
        while (event := server.next_event()) < coming:
            server.advance(event)
        server.advance(coming)
        arrived.append(coming)
        server.arrive(request)
    while (event := server.next_event()) < math.inf:
        server.advance(event)
    return seconds


def closed_rate(service: Service, *, clients: int, requests: int) -> float:
    """Answers a second to `clients` that each send a request when their last one is answered."""
    sent = clients

    def answered(_request: int) -> None:
        nonlocal sent
        if sent < requests:
            server.arrive(sent)
        sent += 1

    server = _Server(service, answered)
    for client in range(clients):
        server.arrive(client)
    while (event := server.next_event()) < math.inf:
        server.advance(event)
    return requests / server.now


def fitted(service: Service, *, rate: float, clients: int, requests: int = 600) -> Service:
    """`service` with the event loop's time with which `clients` get `rate` answers a second.

    What cannot be measured alone is in it: the operating system, switches between threads, and the
    client itself.
    """
    low, high = 0.0, 1.0 / rate  # one request at a time, on one core
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = closed_rate(replace(service, loop=middle), clients=clients, requests=requests)
        low, high = (middle, high) if found > rate else (low, middle)
    return replace(service, loop=(low + high) / 2)
