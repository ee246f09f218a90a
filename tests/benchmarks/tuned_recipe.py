"""What a search is worth: `python tests/benchmarks/tuned_recipe.py --arch A --data D --epochs N …`.

It searches with `training/tune.py` and these options, then trains by `training/run.py`, with three
seeds that the search did not use:

- found: the recipe that was found;
- default: the data's own recipe, as many epochs;
- default, longer: the data's own recipe with as many epochs as all trials of the search and one
  training of the recipe that was found have together. No setting of the search changes what an
  epoch costs, so epochs measure time also on a machine that does other things.

Every training is one line of results/tuned.json. A training that has its line is passed over, so
that the command can be stopped and started again. The table is results/tuned.md. Test images take
no part in the search. Set OMP_NUM_THREADS to the cores that it may have.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.base.files import write_atomic
from training.config.recipe import default_recipe, load_recipe
from training.evaluation.confidence import read_image_record
from training.studies.paired_tests import crossed_bootstrap, mean_of

ROOT = Path(__file__).resolve().parents[2]
LINES = ROOT / "results" / "tuned.json"
TABLE = ROOT / "results" / "tuned.md"
SEEDS = (11, 12, 13)
FOUND, DEFAULT, LONGER = "found", "default", "default, longer"
_KEPT = ("arch", "width", "image_size", "data", "terms", "seed", "epochs", "seconds", "device")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="mobilenetv2")
    parser.add_argument("--width", default="0.35")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--image-size", default="16")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--trials", default="20")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "tuned", help="their folder")
    options = parser.parse_args()
    data = Path(options.data).name
    shared = ["--arch", options.arch, "--width", options.width, "--data", options.data]
    shared += ["--image-size", options.image_size, "--device", "cpu"]
    terms = ["--drg", "--dsr"]
    name = f"tuned-{data}-{options.arch}-{options.epochs}"
    epochs = ["--epochs", str(options.epochs)]
    search = [*shared, *terms, *epochs, "--trials", options.trials, "--name", name]
    _call("training/tune.py", search)
    folder = ROOT / "runs" / "tune" / name
    trials, searched = _epochs_of(folder)
    stated = ["python tests/benchmarks/tuned_recipe.py", *shared[:4], "--data", data]
    stated += ["--image-size", options.image_size, *epochs, "--trials", options.trials]
    facts = {"command": " ".join(stated), "trials": trials, "search_epochs": searched}

    own = default_recipe(options.data)
    for seed in SEEDS:
        _trained(
            [*shared, *terms, "--recipe", str(folder / "best.yaml")], FOUND, seed, options, facts
        )
        _trained([*shared, *terms, "--recipe", own, *epochs], DEFAULT, seed, options, facts)
        words = [*shared, *terms, "--recipe", own, "--epochs", str(options.epochs + searched)]
        _trained(words, LONGER, seed, options, facts)
        write_atomic(TABLE, table(_lines()).encode())
    assert load_recipe(str(folder / "best.yaml")).epochs == options.epochs


def _trained(
    words: Sequence[str],
    arm: str,
    seed: int,
    options: argparse.Namespace,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """The line of a training, which is trained now if it has none."""
    lines = _lines()
    key = (facts["command"], arm, seed)
    for line in lines:
        if (line["command"], line["arm"], line["seed"]) == key:
            return line
    name = f"{Path(options.data).name}-{options.arch}-{arm.replace(', ', '-')}-s{seed}"
    folder = options.runs / name
    again = ["--resume"] if (folder / "checkpoint.pt").exists() else []
    _call("training/run.py", [*words, "--seed", str(seed), "--out", str(folder), *again])
    result = json.loads((folder / "result.json").read_text())
    line = {"arm": arm, **{key: result[key] for key in _KEPT}, **facts, "top1": result["top1"]}
    line["recipe"] = result["recipe"]
    line["images"] = json.loads((folder / "images.json").read_text())
    text = ",\n".join(json.dumps(each) for each in [*lines, line])
    write_atomic(LINES, f"[\n{text}\n]\n".encode())
    return line


def _call(script: str, words: Sequence[str]) -> None:
    subprocess.run([sys.executable, str(ROOT / script), *words], check=True, cwd=ROOT)


def _epochs_of(search: Path) -> tuple[int, int]:
    """How many trials a search had, and their epochs, those of ended ones included."""
    journals = list(search.rglob("journal.jsonl"))
    return len(journals), sum(len(path.read_text().splitlines()) for path in journals)


def _lines() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(LINES.read_text()) if LINES.is_file() else []
    return found


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """A section for each search, with a row for each arm and two differences.

    An interval is of 95 %, by a bootstrap that draws seeds and test images anew.
    """
    text = ["# tuned", "", "Made by the commands below, of [tuned.json](tuned.json).", ""]
    for command in dict.fromkeys(line["command"] for line in lines):
        own = [line for line in lines if line["command"] == command]
        head = own[0]
        text += [f"## {head['arch']} x{head['width']:g}, {head['data']}", ""]
        text += ["```console", command, "```", ""]
        text += [
            f"{head['trials']} trials of {head['search_epochs']} epochs in all, {head['device']}.",
            f"The search saw no test image and not the seeds {', '.join(map(str, SEEDS))}.",
            "",
            "| arm | epochs | s a training | test top-1 % |",
            "|---|---|---|---|",
        ]
        for arm in (FOUND, DEFAULT, LONGER):
            of = [line for line in own if line["arm"] == arm]
            if of:
                scores = 100 * np.array([line["top1"] for line in of])
                seconds = np.mean([line["seconds"] for line in of])
                spread = f" ± {scores.std(ddof=1):.2f}" if len(of) > 1 else ""
                text.append(
                    f"| {arm} | {of[0]['epochs']} | {seconds:.0f} | {scores.mean():.2f}{spread} |"
                )
        text += ["", "| found less | seeds | top-1, points |", "|---|---|---|"]
        for arm in (DEFAULT, LONGER):
            seeds = [line["seed"] for line in own if line["arm"] == arm]
            if seeds:
                first, second = _right(own, FOUND, seeds), _right(own, arm, seeds)
                interval = crossed_bootstrap(first, second, mean_of("right"))
                mean, low, high = (100 * value for value in interval[:3])
                text.append(f"| {arm} | {len(seeds)} | {mean:+.2f} [{low:+.2f}, {high:+.2f}] |")
        text.append("")
    return "\n".join(text)


def _right(
    lines: Sequence[Mapping[str, Any]], arm: str, seeds: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """Which test images the runs of an arm answer right, (S, N)."""
    records = [
        line["images"]
        for seed in seeds
        for line in lines
        if (line["arm"], line["seed"]) == (arm, seed)
    ]
    return {"right": np.stack([read_image_record(record)["right"] for record in records])}


if __name__ == "__main__":
    main()
