"""What `LeanRoute` saves: the server with it and with FastAPI's own handler, in turn.

    python tests/benchmarks/lean_route.py runs/latest --free-network

Prints one JSON object: the processor time of the server and the answers a second, with the ratios
of both. With `--free-network` the network gives the same answer at no cost, as if a GPU ran it.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from load import Connection, closed_loop, sample_bodies
from servers import free_port, running

from runtime.model.locate import find_model

CLIENTS = 8
LEAN, FASTAPI = "LeanRoute", "FastAPI's handler"


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    bundle = find_model(options.model).resolve()
    if options.serve is not None:
        return _serve(bundle, options)
    bodies = sample_bodies(bundle, "examples")
    milliseconds: dict[str, list[float]] = {LEAN: [], FASTAPI: []}
    rates: dict[str, list[float]] = {LEAN: [], FASTAPI: []}
    with ExitStack() as stack:
        servers = {}
        for route in (LEAN, FASTAPI):
            port = free_port()
            free = ["--free-network"] if options.free_network else []
            command = [sys.executable, __file__, bundle, "--serve", str(port), "--route", route]
            health = f"http://127.0.0.1:{port}/readyz"
            servers[route] = (port, stack.enter_context(running([*command, *free], health=health)))
        for turn in range(options.rounds):
            for route in (LEAN, FASTAPI) if turn % 2 else (FASTAPI, LEAN):
                port, process = servers[route]
                before = _processor_seconds(process)
                rate, answered = uvloop.run(_load(port, bodies, options.seconds))
                spent = _processor_seconds(process) - before
                milliseconds[route].append(1e3 * spent / answered)
                rates[route].append(rate)
    print(json.dumps(_summary(milliseconds, rates)))
    return 0


def _serve(bundle: Path, options: argparse.Namespace) -> int:
    """Serves, in the process of the server, with the route that is asked for."""
    from fastapi.routing import APIRoute

    from runtime.backends.onnx_session import OnnxSession
    from runtime.commands import serve
    from runtime.server.routes import LeanRoute

    if options.route == FASTAPI:
        LeanRoute.get_route_handler = APIRoute.get_route_handler
    if options.free_network:

        def run(session: OnnxSession, images: Any) -> Any:
            classes = session.num_classes
            return np.full((len(images), classes), 1 / classes, np.float32)

        OnnxSession._run = run
    return serve.main([str(bundle), "--port", str(options.serve)])


async def _load(port: int, bodies: list[bytes], seconds: float) -> tuple[float, int]:
    """The answers a second and their number."""

    def connect() -> Connection:
        url = f"http://127.0.0.1:{port}/v1/classify"
        return Connection(url, "application/octet-stream")

    load = await closed_loop(connect, bodies, clients=CLIENTS, seconds=seconds)
    return load.per_second(), load.statuses[200]


def _processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _summary(
    milliseconds: dict[str, list[float]], rates: dict[str, list[float]]
) -> dict[str, object]:
    def ratio(values: dict[str, list[float]]) -> float:
        pairs = zip(values[FASTAPI], values[LEAN], strict=True)
        return round(statistics.median(other / lean for other, lean in pairs), 3)

    return {
        "least_ms_a_request": {route: round(min(v), 3) for route, v in milliseconds.items()},
        "median_ms_a_request": {
            route: round(statistics.median(v), 3) for route, v in milliseconds.items()
        },
        "most_a_second": {route: round(max(v)) for route, v in rates.items()},
        "median_ratio_of_ms": ratio(milliseconds),
        "median_ratio_of_rates": ratio(rates),
    }


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--free-network", action="store_true")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each server in a round")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--route", default=LEAN, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
