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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from trainings import (
    ROOT,
    TrainingLines,
    call,
    difference_row,
    mean_and_deviation,
)

from runtime.base.files import write_atomic
from training.config.recipe import default_recipe, load_recipe

LINES = TrainingLines(ROOT / "results" / "tuned.json")
TABLE = ROOT / "results" / "tuned.md"
SEEDS = (11, 12, 13)
FOUND, DEFAULT, LONGER = "found", "default", "default, longer"


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
    call("training/tune.py", search)
    folder = ROOT / "runs" / "tune" / name
    trials, searched = _epochs_of(folder)
    stated = ["python tests/benchmarks/tuned_recipe.py", *shared[:4], "--data", data]
    stated += ["--image-size", options.image_size, *epochs, "--trials", options.trials]
    facts = {"command": " ".join(stated), "trials": trials, "search_epochs": searched}

    own = default_recipe(options.data)
    found, longer = str(folder / "best.yaml"), str(options.epochs + searched)
    arms = {
        FOUND: ["--recipe", found],
        DEFAULT: ["--recipe", own, *epochs],
        LONGER: ["--recipe", own, "--epochs", longer],
    }
    for seed in SEEDS:
        for arm, words in arms.items():
            run = f"{data}-{options.arch}-{arm.replace(', ', '-')}-s{seed}"
            LINES.train([*shared, *terms, *words], arm, seed, options.runs / run, facts)
        write_atomic(TABLE, table(LINES.read()).encode())
    assert load_recipe(str(folder / "best.yaml")).epochs == options.epochs


def _epochs_of(search: Path) -> tuple[int, int]:
    """How many trials a search had, and their epochs, those of ended ones included."""
    journals = list(search.rglob("journal.jsonl"))
    return len(journals), sum(len(path.read_text().splitlines()) for path in journals)


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """A section for each search, with a row for each arm and two differences.

    An interval is of 95 %, by a paired t-test over the seeds, which are few.
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
                seconds = np.mean([line["seconds"] for line in of])
                row = f"| {arm} | {of[0]['epochs']} | {seconds:.0f} | {mean_and_deviation(of)} |"
                text.append(row)
        text += ["", "| found less | seeds | top-1, points |", "|---|---|---|"]
        known = {line["arm"] for line in own}
        text += [difference_row(own, FOUND, arm) for arm in (DEFAULT, LONGER) if arm in known]
        text.append("")
    return "\n".join(text)


if __name__ == "__main__":
    main()
