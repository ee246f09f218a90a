"""The p99 that `runtime plan` predicts, against the one of a real server.

    python tests/benchmarks/planned_load.py runs/latest

The requests of a second program come at random (Poisson) at 50 and 80 % of the capacity, in turns
with new predictions. Prints one JSON object; exits 1 if a median of the measured p99 is not within
30 % of the predicted one.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import uvloop
from load import Load, Target, open_loop, sample_bodies
from servers import our_server

from runtime.model.locate import find_model

LOADS = (0.5, 0.8)
BOUND = 0.3


def main() -> int:
    options = _parse()
    bundle = find_model(options.model)
    bodies = sample_bodies(bundle, "examples")
    turns = [_turn(bundle, bodies, options.seconds, seed) for seed in range(options.turns)]
    found = {}
    for place, load in enumerate(LOADS):
        predicted, measured = (
            statistics.median(turn[place][name] for turn in turns) for name in ("predicted", "p99")
        )
        found[f"{load:.0%}"] = {
            "predicted_p99_ms": round(predicted, 2),
            "measured_p99_ms": round(measured, 2),
            "ratio": round(predicted / measured, 3),
        }
    print(json.dumps({**found, "turns": turns}))
    return 1 if any(abs(each["ratio"] - 1) > BOUND for each in found.values()) else 0


def _turn(bundle: Path, bodies: list[bytes], seconds: float, seed: int) -> list[dict[str, float]]:
    command = [sys.executable, "-m", "runtime", "plan", str(bundle.resolve()), "--json"]
    command += ["--rate", "1", "--p99", "10000"]
    plan = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    with our_server(bundle) as (url, _):
        target = Target(url, bodies)

        def load(rate: float, seconds: float, seed: int) -> Load:
            return uvloop.run(open_loop(target, rate=rate, seconds=seconds, random_seed=seed))

        load(plan["loads"][0]["rate"], 2.0, seed)
        lines = []
        for each in plan["loads"]:
            done = load(each["rate"], seconds, seed)
            lines.append(
                {
                    "unevenness": plan["service"]["unevenness"],
                    "rate": round(each["rate"], 1),
                    "predicted": round(each["p99_ms"], 2),
                    "p99": round(1e3 * done.percentile(0.99), 2),
                    "predicted_p50": round(each["p50_ms"], 2),
                    "p50": round(1e3 * done.percentile(0.5), 2),
                    "refused": done.statuses[503],
                }
            )
        return lines


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
