"""Requests a second of `runtime serve` and of LitServe in turn, on the same ONNX file.

    python -m venv /tmp/litserve
    /tmp/litserve/bin/pip install litserve onnxruntime pillow
    python tests/benchmarks/compare_litserve.py runs/latest --python /tmp/litserve/bin/python

LitServe is given its fast queue and the best of four settings, found in a trial first. The images
are photographs of 640x480 pixels unless `--images examples` asks for the bundle's own.
"""

import argparse
import base64
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop
from load import Load, Target, median_with_interval, sample_bodies
from servers import free_port, our_server, running

from runtime.model.locate import find_model

SETTINGS = ((1, 1), (2, 1), (1, 16), (2, 16))  # LitServe's workers and largest batch
TRIAL_SECONDS = 3.0
WARM_SECONDS = 0.5


@contextmanager
def ours(bundle: Path, images: list[bytes]) -> Iterator[Target]:
    with our_server(bundle, "--precision", "fp32") as (url, _):
        yield Target(url, images)


@contextmanager
def litserve(
    python: Path, bundle: Path, images: list[bytes], workers: int, batch: int
) -> Iterator[Target]:
    port = free_port()
    script = Path(__file__).resolve().with_name("litserve_server.py")
    options = ["--port", str(port), "--workers", str(workers), "--batch", str(batch)]
    bodies = [json.dumps({"image": base64.b64encode(i).decode()}).encode() for i in images]
    base = f"http://127.0.0.1:{port}"
    with running([python.absolute(), script, bundle.resolve(), *options], health=f"{base}/health"):
        yield Target(f"{base}/predict", bodies, "application/json")


def main() -> None:
    options = _parse()
    bundle = find_model(options.model)
    images = sample_bodies(bundle, options.images)
    version = _version(options.python)
    print(f"{bundle}, {len(images)} images of {len(images[0]):,} bytes, {options.clients} clients")
    best = max(SETTINGS, key=lambda setting: _trial(options, bundle, images, *setting))
    print(f"LitServe {version}'s best: {best[0]} workers, batches of up to {best[1]}")
    # Only one server runs at a time, because LitServe's idle workers take processor time.
    rates: dict[str, list[float]] = {"runtime": [], "litserve": []}
    ratios = []
    for turn in range(options.rounds):
        with ours(bundle, images) as us:
            mine, answer = _measure(us, options)
        with litserve(options.python, bundle, images, *best) as them:
            theirs, their_answer = _measure(them, options)
        _same_answers(answer, their_answer)
        for name, load in (("runtime", mine), ("litserve", theirs)):
            assert set(load.statuses) == {200}, (name, load.statuses)
            rates[name].append(round(load.per_second(), 1))
        ratios.append(mine.per_second() / theirs.per_second())
        print(
            f"round {turn + 1}: runtime {_figures(mine)}; LitServe {_figures(theirs)}; "
            f"ratio {ratios[-1]:.2f}"
        )
    found = {
        **median_with_interval(ratios),
        "ratios": ratios,
        **{f"{name}_per_second": each for name, each in rates.items()},
        "litserve": f"{version}, {best[0]} workers, batches of up to {best[1]}",
    }
    print(json.dumps(found))


def _version(python: Path) -> str:
    """The version of LitServe that a Python has."""
    code = "from importlib.metadata import version; print(version('litserve'))"
    asked = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return asked.stdout.strip()


def _measure(target: Target, options: argparse.Namespace) -> tuple[Load, dict[str, float]]:
    answer = _first_answer(target)
    target.load(options.clients, WARM_SECONDS)
    return target.load(options.clients, options.seconds), answer


def _first_answer(target: Target) -> dict[str, float]:
    """The probabilities of the first image, by label."""

    async def ask() -> bytes:
        connection = target.connect()
        _, answer = await connection.post(target.bodies[0])
        connection.close()
        return answer

    found = json.loads(uvloop.run(ask()))
    predictions = found["results"][0]["predictions"] if "results" in found else found["predictions"]
    return {entry["label"]: entry["probability"] for entry in predictions}


def _figures(load: Load) -> str:
    p50, p99 = (1e3 * load.percentile(share) for share in (0.5, 0.99))
    return f"{load.per_second():.1f}/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms"


def _trial(
    options: argparse.Namespace, bundle: Path, images: list[bytes], workers: int, batch: int
) -> float:
    with litserve(options.python, bundle, images, workers, batch) as target:
        target.load(options.clients, WARM_SECONDS)
        found = target.load(options.clients, TRIAL_SECONDS).per_second()
    print(f"trial: LitServe, {workers} workers, batches of up to {batch}: {found:.1f}/s")
    return found


def _same_answers(ours: dict[str, float], theirs: dict[str, float]) -> None:
    for label, probability in ours.items():
        if abs(theirs.get(label, -1.0) - probability) > 1e-3:
            raise SystemExit(f"the servers disagree: {ours} and {theirs}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--python", type=Path, required=True, help="a Python that has LitServe")
    parser.add_argument("--images", choices=("examples", "photos"), default="photos")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
