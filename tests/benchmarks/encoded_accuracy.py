"""What `--cache encoded:90` costs: `python tests/benchmarks/encoded_accuracy.py --data D`.

It trains with arrays and with JPEG files of that quality in the cache, the same seeds for both.
Test images come from the same form of the cache as training images, as a user's do. Every training
is one line of results/encoded-accuracy.json, and the table is results/encoded-accuracy.md.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainings import ROOT, TrainingLines, difference_row, mean_and_deviation

from runtime.base.files import write_atomic

LINES = TrainingLines(ROOT / "results" / "encoded-accuracy.json")
TABLE = ROOT / "results" / "encoded-accuracy.md"
ARRAYS, ENCODED = "arrays", "encoded:90"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="mobilenetv2")
    parser.add_argument("--width", default="0.5")
    parser.add_argument("--data", required=True)
    parser.add_argument("--image-size", default="64")
    parser.add_argument("--epochs", default="8")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "encoded-accuracy")
    options = parser.parse_args()
    words = ["--arch", options.arch, "--width", options.width, "--image-size", options.image_size]
    words += ["--epochs", options.epochs]
    data = Path(options.data).name
    stated = ["python tests/benchmarks/encoded_accuracy.py --data", data, *words]
    facts = {"command": " ".join([*stated, "--seeds", str(options.seeds)])}
    for seed in range(options.seeds):
        for arm in (ARRAYS, ENCODED):
            folder = options.runs / f"{data}-{options.arch}-{arm.replace(':', '-')}-s{seed}"
            asked = [*words, "--data", options.data, "--drg", "--device", "cpu", "--cache", arm]
            LINES.train(asked, arm, seed, folder, facts)
        write_atomic(TABLE, table(LINES.read()).encode())


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """A section for each comparison, with a row for each form and their difference."""
    text = ["# encoded-accuracy", "", "Made by the commands below, of the lines in"]
    text += ["[encoded-accuracy.json](encoded-accuracy.json).", ""]
    for command in dict.fromkeys(line["command"] for line in lines):
        own = [line for line in lines if line["command"] == command]
        head = own[0]
        text += [f"## {head['arch']} x{head['width']:g}, {head['data']}", ""]
        text += ["```console", command, "```", "", "| cache | test top-1 % |", "|---|---|"]
        for arm in (ARRAYS, ENCODED):
            text.append(f"| {arm} | {mean_and_deviation([x for x in own if x['arm'] == arm])} |")
        text += ["", f"| {ENCODED} less | seeds | top-1, points |", "|---|---|---|"]
        text += [difference_row(own, ENCODED, ARRAYS), ""]
    return "\n".join(text)


if __name__ == "__main__":
    main()
