"""How many replicas of a server answer a rate of requests in time, on machines such as this one."""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import BackendError
from runtime.bench.load_model import Service, fitted, open_latencies
from runtime.bench.served_load import closed_loop, open_loop, served
from runtime.inference.classifier import Classifier

CLIENTS = 16  # that wait for their answers while the capacity is measured
_REQUESTS = 6000  # of a simulation
_ALMOST_NONE = 0.01  # of the capacity: requests hardly ever meet
_STEADY = 0.98  # of the capacity: beyond it the queue grows without end
_SEED = 1
_PROBED = (0.5, 0.8)  # shares of the capacity at which the unevenness is fitted
_FITTED = 99  # by this percentile, the median of
_SLICES = 5  # measurements
_MOST_UNEVEN, _HALVINGS = 20.0, 20
_DECODED = 10  # pictures, of which decoding is measured
_CALLS, _CALL_SECONDS = 5, 0.1  # at least, of what is measured alone


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A server on this machine: its service times, what it can do, and one request alone.

    Attributes:
        service: its times, with the event loop's fitted to `capacity`.
        capacity: answers a second to clients that wait for them.
        alone: seconds of requests that had the server for themselves.
        unevenness: for some loads, as shares of the capacity, by how much longer requests wait
            here than in the simulation, whose times do not vary. Kingman's formula (1961) for the
            waiting in a queue has such a factor. Between two loads it is interpolated.
    """

    service: Service
    capacity: float
    alone: tuple[float, ...]
    unevenness: tuple[tuple[float, float], ...] = ((0.0, 1.0),)

    def factor(self, load: float) -> float:
        """The unevenness at a load."""
        loads, factors = zip(*self.unevenness, strict=True)
        return float(np.interp(load, loads, factors))


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """The milliseconds within which half, and 99 of 100, are answered at a rate a second.

    `load` is the rate as a share of the capacity of one replica.
    """

    rate: float
    load: float
    p50_ms: float
    p99_ms: float


def measure_server(
    classifier: Classifier,
    model: Path,
    bodies: Sequence[bytes],
    *,
    cores: int,
    runners: int,
    on_cpu: bool,
    max_batch: int,
    max_wait_ms: float,
    options: Sequence[str],
    token_variable: str,
    seconds: float,
) -> Measured:
    """Measures decoding and the network alone, and then the server as a whole.

    Args:
        classifier: the open model, with one thread for a run where it runs on the CPU.
        model: where it lies, for the server.
        bodies: pictures, as files.
        cores: of this machine.
        runners: how many threads of the server run the network.
        on_cpu: whether the network runs on the cores.
        max_batch: of the server.
        max_wait_ms: of the server.
        options: of the server.
        token_variable: the environment variable that must not reach it.
        seconds: for each measurement of the server, and in all five times as long under load.

    Raises:
        BackendError: the server does not start, refuses a picture, answers nothing in time or ends.
    """
    largest = min(max_batch, classifier.session.max_batch or max_batch)
    decoding = [_seconds_of(partial(classifier.prepare, body)) for body in bodies[:_DECODED]]
    service = Service(
        loop=0.0,
        decode=statistics.fmean(decoding),
        network=tuple(_run_seconds(classifier, size) for size in range(1, largest + 1)),
        cores=cores,
        runners=runners,
        max_wait=max_wait_ms / 1e3,
        on_cpu=on_cpu,
    )
    classifier.close()
    with served(model, options, token_variable=token_variable) as address:
        closed_loop(address, bodies, clients=CLIENTS, seconds=seconds / 4)  # it is warm then
        times, capacity = closed_loop(address, bodies, clients=CLIENTS, seconds=seconds)
        _check_answered(times, seconds)
        alone, _ = closed_loop(address, bodies, clients=1, seconds=seconds)
        _check_answered(alone, seconds)
        # In turns and in short slices, so that other work of the machine spoils few of them.
        slices = [
            [
                open_loop(address, bodies, rate=load * capacity, seconds=seconds / 2)
                for load in _PROBED
            ]
            for _ in range(_SLICES)
        ]
    for part in chain(*slices):
        _check_answered(part, seconds / 2)
    service = fitted(service, rate=capacity, clients=CLIENTS)
    measured = Measured(service=service, capacity=capacity, alone=tuple(alone))
    factors = [
        (load, _unevenness(measured, times, rate=load * capacity))
        for load, times in zip(_PROBED, zip(*slices, strict=True), strict=True)
    ]
    return replace(measured, unevenness=tuple(factors))


def _check_answered(times: Sequence[float], seconds: float) -> None:
    """Raises BackendError if there is no time of an answer: all that follows divides by them."""
    if not times:
        raise BackendError(
            f"the server gave no answer that counts within {seconds:g} s; give a longer --seconds"
        )


def _unevenness(measured: Measured, slices: Sequence[list[float]], *, rate: float) -> float:
    """The factor of waiting with which the prediction at `rate` fits what was measured at it."""
    found = statistics.median(
        float(np.percentile(times, _FITTED, method="higher")) for times in slices
    )
    low, high = 0.0, _MOST_UNEVEN
    waiting, drawn = _parts(measured, rate=rate)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        longer = np.percentile(middle * waiting + drawn, _FITTED) > found
        low, high = (low, middle) if longer else (middle, high)
    return high


def predicted(measured: Measured, *, rate: float) -> Prediction:
    """What one replica does at `rate` requests a second that come at random."""
    load = rate / measured.capacity
    if load >= _STEADY:
        return Prediction(rate=rate, load=load, p50_ms=float("inf"), p99_ms=float("inf"))
    waiting, drawn = _parts(measured, rate=rate)
    p50, p99 = np.percentile(measured.factor(load) * waiting + drawn, (50, 99))
    return Prediction(rate=rate, load=load, p50_ms=1e3 * float(p50), p99_ms=1e3 * float(p99))


def _parts(measured: Measured, *, rate: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What other requests add to each request, by the simulation, and what each takes alone."""
    service = measured.service
    simulated = np.array(open_latencies(service, rate=rate, requests=_REQUESTS))
    bare = service.loop + service.decode + service.network[0]
    drawn = random.Random(_SEED).choices(measured.alone, k=_REQUESTS)
    return np.maximum(simulated - bare, 0), np.array(drawn)


def fewest_replicas(
    measured: Measured, *, rate: float, p99_ms: float
) -> tuple[int, Prediction] | None:
    """The fewest replicas that share `rate` and keep `p99_ms`, with what each of them does.

    None: not even a request that is alone keeps it.
    """

    def kept(replicas: int) -> Prediction | None:
        found = predicted(measured, rate=rate / replicas)
        return found if found.p99_ms <= p99_ms else None

    if predicted(measured, rate=_ALMOST_NONE * measured.capacity).p99_ms > p99_ms:
        return None
    low = high = max(1, int(rate / measured.capacity))
    while kept(high) is None and rate / high > _ALMOST_NONE * measured.capacity:
        low, high = high + 1, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if kept(middle) is not None else (middle + 1, high)
    return high, predicted(measured, rate=rate / high)


def _run_seconds(classifier: Classifier, size: int) -> float:
    side = classifier.session.input_size
    images = np.random.default_rng(0).integers(0, 256, (size, side, side, 3), dtype=np.uint8)
    return _seconds_of(lambda: classifier.session.run(images))


def _seconds_of(call: Callable[[], object]) -> float:
    """The median of some calls, after one that does not count."""
    call()
    times: list[float] = []
    end = time.perf_counter() + _CALL_SECONDS
    while len(times) < _CALLS or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)
