"""What `runtime serve` does at four times the requests that it can answer.

    python tests/benchmarks/overload.py runs/latest --seconds 60

First the capacity is measured with clients that wait for their answers, then requests come at four
times that rate whatever happens. Prints one JSON object; exits 1 if a bound is missed: every
answer is 200 or 503, memory grows by less than 5 % once warm, and 99 % of the accepted requests
are answered within twice the time that the full queue takes to drain.
"""

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

import uvloop
from load import Load, Target, closed_loop, open_loop, sample_bodies
from servers import our_server

from runtime.model.locate import find_model

OVERLOAD = 4.0
WARM_SHARE = 0.25  # of the time; after it, memory must not grow
MAX_GROWTH = 0.05
CLIENTS = 16


def main() -> int:
    options = _parse()
    bundle = find_model(options.model)
    bodies = sample_bodies(bundle, options.images)
    queue = ("--max-queue", str(options.max_queue))
    with our_server(bundle, *queue) as (url, pid):
        found = uvloop.run(_measure(Target(url, bodies), pid, options))
    print(json.dumps(found))
    missed = [name for name, kept in found["bounds"].items() if not kept]
    return 1 if missed else 0


async def _measure(target: Target, pid: int, options: argparse.Namespace) -> dict[str, object]:
    warm = await closed_loop(target, clients=CLIENTS, seconds=options.capacity_seconds)
    capacity = warm.per_second()
    memory: list[tuple[float, int]] = []
    watching = asyncio.create_task(_watch(pid, memory))
    load = await open_loop(target, rate=OVERLOAD * capacity, seconds=options.seconds)
    watching.cancel()
    return _summary(load, capacity, memory, options)


def _summary(
    load: Load, capacity: float, memory: list[tuple[float, int]], options: argparse.Namespace
) -> dict[str, object]:
    begin = memory[0][0] + WARM_SHARE * options.seconds
    warm = [size for moment, size in memory if moment >= begin]
    growth = max(warm) / warm[0] - 1
    drain = options.max_queue / capacity
    p99 = load.percentile(0.99)
    return {
        "capacity_per_second": round(capacity, 1),
        "offered_per_second": round(sum(load.statuses.values()) / load.wall, 1),
        "answered_per_second": round(load.per_second(), 1),
        "statuses": dict(load.statuses),
        "broken_connections": load.broken,
        "memory_mb": [round(size / 1024, 1) for size in (warm[0], max(warm))],
        "memory_growth": round(growth, 4),
        "p50_ms": round(1e3 * load.percentile(0.5), 1),
        "p99_ms": round(1e3 * p99, 1),
        "drain_ms": round(1e3 * drain, 1),
        "p99_refused_ms": round(1e3 * load.percentile(0.99, 503), 1),
        "bounds": {
            "only 200 and 503": set(load.statuses) <= {200, 503} and load.broken == 0,
            "memory grows by less than 5 %": growth < MAX_GROWTH,
            "p99 within twice the drain time": p99 <= 2 * drain,
        },
    }


async def _watch(pid: int, memory: list[tuple[float, int]]) -> None:
    """Notes the resident kilobytes of the process, four times a second."""
    while True:
        status = Path(f"/proc/{pid}/status").read_text()
        size = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        memory.append((time.perf_counter(), int(size)))
        await asyncio.sleep(0.25)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--images", choices=("examples", "photos"), default="examples")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--capacity-seconds", type=float, default=4.0)
    parser.add_argument("--max-queue", type=int, default=128)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
