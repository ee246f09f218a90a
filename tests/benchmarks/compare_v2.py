"""Requests a second of one server by `/v1`, and by the Open Inference Protocol with binary tensors.

    python tests/benchmarks/compare_v2.py runs/latest

The same pictures go to `/v1/classify` and, as BYTES, to `/v2`; the network's inputs of the same
pictures, as UINT8, to `/v2`, too. The three are measured in turns of a second, in an order that is
drawn anew each time. Prints one JSON object: the median ratio of each /v2 form to /v1, and the 95 %
interval of that median over the turns; and the server's processor time for a request.
"""

import argparse
import json
import os
import random
import statistics
import struct
import urllib.request
from pathlib import Path

import uvloop
from load import Connection, closed_loop, median_with_interval, sample_bodies
from servers import our_server

from runtime import open_classifier
from runtime.model.locate import find_model

HEADER = "Inference-Header-Content-Length"


def main() -> None:
    options = _parse()
    bundle = find_model(options.model)
    pictures = sample_bodies(bundle, options.images)
    with open_classifier(bundle) as classifier:
        arrays = [classifier.prepare(picture).tobytes() for picture in pictures]
        size = classifier.card.input.size
    prefixed = [struct.pack("<I", len(picture)) + picture for picture in pictures]
    rates: dict[str, list[float]] = {"v1": [], "v2 encoded": [], "v2 uint8": []}
    times: dict[str, list[float]] = {kind: [] for kind in rates}
    with our_server(bundle) as (url, pid):
        base = url.removesuffix("/v1/classify")
        with urllib.request.urlopen(f"{base}/v1/model") as answer:
            name = json.load(answer)["name"]
        encoded = _bodies("encoded", "BYTES", [1, 1], prefixed)
        uint8 = _bodies("images", "UINT8", [1, size, size, 3], arrays)
        targets = {
            "v1": (url, pictures, {}),
            "v2 encoded": (f"{base}/v2/models/{name}-encoded/infer", *encoded),
            "v2 uint8": (f"{base}/v2/models/{name}/infer", *uint8),
        }
        rng = random.Random(0)
        for turn in range(-1, options.turns):  # the first one warms up
            for kind in rng.sample(list(targets), len(targets)):
                target, bodies, headers = targets[kind]

                def connect(target: str = target, headers: dict[str, str] = headers) -> Connection:
                    return Connection(target, "application/octet-stream", headers)

                before = processor_seconds(pid)
                load = uvloop.run(
                    closed_loop(connect, bodies, clients=options.clients, seconds=options.seconds)
                )
                assert set(load.statuses) == {200}, load.statuses
                if turn >= 0:
                    rates[kind].append(load.per_second())
                    used = processor_seconds(pid) - before
                    times[kind].append(1e3 * used / load.statuses[200])
    found: dict[str, object] = {
        "per_second": {kind: round(statistics.median(v), 1) for kind, v in rates.items()}
    }
    found["processor_ms"] = {kind: round(statistics.median(v), 3) for kind, v in times.items()}
    for kind in ("v2 encoded", "v2 uint8"):
        ratios = [b / a for a, b in zip(rates["v1"], rates[kind], strict=True)]
        found[f"{kind} to v1"] = median_with_interval(ratios)
    print(json.dumps(found))


def processor_seconds(pid: int) -> float:
    """The processor time that a process has used (proc(5): utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _bodies(
    name: str, datatype: str, shape: list[int], contents: list[bytes]
) -> tuple[list[bytes], dict[str, str]]:
    """Bodies with binary tensors, and their header: their JSON has one length."""
    width = max(len(str(len(content))) for content in contents)
    heads = []
    for content in contents:
        parameters = {"binary_data_size": len(content)}
        tensor = {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}
        request = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
        spaces = " " * (width - len(str(len(content))))
        heads.append((json.dumps(request) + spaces).encode())
    (length,) = {len(head) for head in heads}
    bodies = [head + content for head, content in zip(heads, contents, strict=True)]
    return bodies, {HEADER: str(length)}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--images", choices=("examples", "photos"), default="photos")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--turns", type=int, default=15)
    return parser.parse_args()


if __name__ == "__main__":
    main()
