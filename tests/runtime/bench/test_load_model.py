"""The simulation of a server, against what queueing theory says of simple ones."""

from dataclasses import replace

import numpy as np
import pytest

from runtime.bench.capacity_plan import Measured, fewest_replicas, predicted
from runtime.bench.load_model import Service, closed_rate, fitted, open_latencies

LONE = Service(loop=0.0, decode=0.0, network=(0.01,), cores=1, runners=1, max_wait=0.0)


@pytest.mark.parametrize("load", [0.3, 0.6])
def test_a_lone_runner_is_the_queue_of_pollaczek_and_khinchine(load: float) -> None:
    """M/D/1: the mean time in the system is s + r s / (2 (1 - r))."""
    seconds = open_latencies(LONE, rate=load / 0.01, requests=20_000)
    assert np.mean(seconds) == pytest.approx(0.01 + load * 0.01 / (2 * (1 - load)), rel=0.05)


def test_a_request_that_is_alone_takes_the_sum_of_its_parts() -> None:
    service = Service(
        loop=0.002, decode=0.003, network=(0.004, 0.006), cores=2, runners=2, max_wait=0.005
    )
    assert np.median(open_latencies(service, rate=0.01, requests=50)) == pytest.approx(0.009)


@pytest.mark.parametrize("load", [0.01, 0.001])
def test_a_clock_that_has_run_for_months_still_ends(load: float) -> None:
    """At 2/s and a thousandth of that, a step of the clock is larger than 1e-12 s."""
    capacity, requests = 2.0, 3000
    work = 0.5 / capacity
    service = Service(
        loop=0.0031,
        decode=1.07 * work,
        network=tuple(0.93 * work * size for size in range(1, 9)),
        cores=2,
        runners=2,
        max_wait=0.0,
    )
    seconds = open_latencies(service, rate=load * capacity, requests=requests)
    assert np.median(seconds) == pytest.approx(0.0031 + 2.0 * work, rel=1e-6)


def test_batches_carry_what_single_images_cannot() -> None:
    """At 1.5 times the rate of batches of one, the queue of the batcher stays short."""
    batched = replace(LONE, network=tuple(0.01 + 0.001 * size for size in range(8)))
    slow = open_latencies(LONE, rate=150, requests=3000)
    fast = open_latencies(batched, rate=150, requests=3000)
    assert slow[-1] > 1.0
    assert max(fast) < 0.1


def test_threads_share_the_cores() -> None:
    two_cores = replace(LONE, cores=2, runners=2)
    assert closed_rate(two_cores, clients=4, requests=400) == pytest.approx(200, rel=0.02)
    shared = replace(LONE, cores=1, runners=2)
    assert closed_rate(shared, clients=4, requests=400) == pytest.approx(100, rel=0.02)
    on_gpu = replace(LONE, cores=1, runners=2, on_cpu=False)
    assert closed_rate(on_gpu, clients=4, requests=400) == pytest.approx(200, rel=0.02)


def test_the_loop_is_fitted_to_what_was_measured() -> None:
    service = Service(
        loop=0.0, decode=0.001, network=(0.002, 0.003), cores=2, runners=2, max_wait=0.005
    )
    truth = replace(service, loop=0.0015)
    rate = closed_rate(truth, clients=16, requests=600)
    assert fitted(service, rate=rate, clients=16).loop == pytest.approx(0.0015, rel=0.05)


MEASURED = Measured(service=LONE, capacity=100.0, alone=(0.01,))


def test_replicas_are_the_fewest_that_keep_the_time() -> None:
    found = fewest_replicas(MEASURED, rate=300, p99_ms=40)
    assert found is not None
    replicas, each = found
    assert each.rate == pytest.approx(300 / replicas)
    assert each.p99_ms <= 40
    assert predicted(MEASURED, rate=300 / (replicas - 1)).p99_ms > 40
    assert fewest_replicas(MEASURED, rate=0.5, p99_ms=40) is not None
    assert fewest_replicas(MEASURED, rate=300, p99_ms=9) is None


def test_a_full_server_has_no_time() -> None:
    assert predicted(MEASURED, rate=100).p99_ms == float("inf")
    uneven = replace(MEASURED, unevenness=((0.5, 1.0), (0.8, 3.0)))
    assert [uneven.factor(load) for load in (0.1, 0.5, 0.65, 0.9)] == [1, 1, 2, 3]
    assert predicted(uneven, rate=80).p99_ms > predicted(MEASURED, rate=80).p99_ms
