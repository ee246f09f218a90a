"""Requests a second of one server by `/v1`, and by the Open Inference Protocol with binary tensors.

    python tests/benchmarks/compare_v2.py runs/latest

The same pictures go to `/v1/classify` and, as BYTES, to `/v2`; the network's inputs of the same
pictures, as UINT8, to `/v2`, too. The three are measured in turns of a second, in an order that is
drawn anew each time. Prints one JSON object: the median ratio of each /v2 form to /v1, and the 95 %
interval of that median over the turns; and the server's processor time for a request.
"""

import argparse
import json
import statistics
import struct
import urllib.request
from pathlib import Path

from load import Target, in_turns, median_with_interval, sample_bodies
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
    with our_server(bundle) as (url, pid):
        base = url.removesuffix("/v1/classify")
        with urllib.request.urlopen(f"{base}/v1/model") as answer:
            name = json.load(answer)["name"]
        encoded = _bodies("encoded", "BYTES", [1, 1], prefixed)
        uint8 = _bodies("images", "UINT8", [1, size, size, 3], arrays)
        infer = f"{base}/v2/models/{name}"
        targets = {
            "v1": Target(url, pictures),
            "v2 encoded": Target(f"{infer}-encoded/infer", encoded[0], headers=encoded[1]),
            "v2 uint8": Target(f"{infer}/infer", uint8[0], headers=uint8[1]),
        }
        turns = in_turns(
            {kind: (target, pid) for kind, target in targets.items()},
            turns=options.turns,
            clients=options.clients,
            seconds=options.seconds,
        )
    found: dict[str, object] = {
        "per_second": {k: round(statistics.median(t.per_second), 1) for k, t in turns.items()},
        "processor_ms": {k: round(statistics.median(t.processor_ms), 3) for k, t in turns.items()},
    }
    for kind in ("v2 encoded", "v2 uint8"):
        pairs = zip(turns["v1"].per_second, turns[kind].per_second, strict=True)
        found[f"{kind} to v1"] = median_with_interval([b / a for a, b in pairs])
    print(json.dumps(found))


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
