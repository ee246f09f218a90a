"""What `LeanRoute` saves: the server with it and with FastAPI's own handler, in turn.

    python tests/benchmarks/lean_route.py runs/latest --free-network

Prints one JSON object: the processor time of the server and the answers a second, with the ratios
of both. With `--free-network` the network gives the same answer at no cost, as if a GPU ran it.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from load import Target, Turns, in_turns, sample_bodies
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
    with ExitStack() as stack:
        targets = {}
        for route in (LEAN, FASTAPI):
            port = free_port()
            free = ["--free-network"] if options.free_network else []
            command = [sys.executable, __file__, bundle, "--serve", str(port), "--route", route]
            base = f"http://127.0.0.1:{port}"
            process = stack.enter_context(running([*command, *free], health=f"{base}/readyz"))
            targets[route] = (Target(f"{base}/v1/classify", bodies), process)
        found = in_turns(targets, turns=options.rounds, clients=CLIENTS, seconds=options.seconds)
    print(json.dumps(_summary(found)))
    return 0


def _serve(bundle: Path, options: argparse.Namespace) -> int:
    """Serves, in the process of the server, with the route that is asked for."""
    from fastapi.routing import APIRoute

    from runtime.backends.onnx_session import OnnxSession
    from runtime.commands import serve
    from runtime.server.routes import LeanRoute

    if options.route == FASTAPI:
        LeanRoute.__init__ = APIRoute.__init__
    if options.free_network:

        def run(session: OnnxSession, images: Any) -> Any:
            classes = session.num_classes
            return np.full((len(images), classes), 1 / classes, np.float32)

        OnnxSession._run = run
    return serve.main([str(bundle), "--port", str(options.serve)])


def _summary(turns: dict[str, Turns]) -> dict[str, object]:
    def ratio(of: Callable[[Turns], list[float]]) -> float:
        pairs = zip(of(turns[FASTAPI]), of(turns[LEAN]), strict=True)
        return round(statistics.median(other / lean for other, lean in pairs), 3)

    times = {route: turn.processor_ms for route, turn in turns.items()}
    return {
        "least_ms_a_request": {route: round(min(v), 3) for route, v in times.items()},
        "median_ms_a_request": {
            route: round(statistics.median(v), 3) for route, v in times.items()
        },
        "most_a_second": {route: round(max(turn.per_second)) for route, turn in turns.items()},
        "median_ratio_of_ms": ratio(lambda turn: turn.processor_ms),
        "median_ratio_of_rates": ratio(lambda turn: turn.per_second),
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
