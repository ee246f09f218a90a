"""Trainings whose results are lines of a file in results/, for the benchmarks beside it.

A training that has its line is passed over, and one that was stopped goes on, so that a benchmark
can be stopped and started again.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.base.files import write_atomic
from training.evaluation.confidence import read_image_record
from training.studies.paired_tests import mean_of, paired_t

ROOT = Path(__file__).resolve().parents[2]
_KEPT = ("arch", "width", "image_size", "data", "terms", "seed", "epochs", "seconds", "device")


def call(script: str, words: Sequence[str]) -> None:
    """Runs a command of the project; its failure ends the benchmark."""
    subprocess.run([sys.executable, str(ROOT / script), *words], check=True, cwd=ROOT)


@dataclass(frozen=True)
class TrainingLines:
    """A JSON list with one object a training: `arm`, `seed`, what was asked, and what came out."""

    path: Path

    def read(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (
            json.loads(self.path.read_text()) if self.path.is_file() else []
        )
        return found

    def train(
        self, words: Sequence[str], arm: str, seed: int, folder: Path, facts: Mapping[str, Any]
    ) -> None:
        """Trains by `training/run.py` into `folder`, unless `arm` and `seed` have a line.

        `facts` go into the line; their `command` tells one comparison from another.
        """
        lines = self.read()
        key = (facts["command"], arm, seed)
        if key in {(line["command"], line["arm"], line["seed"]) for line in lines}:
            return
        again = ["--resume"] if (folder / "checkpoint.pt").exists() else []
        call("training/run.py", [*words, "--seed", str(seed), "--out", str(folder), *again])
        result = json.loads((folder / "result.json").read_text())
        line = {"arm": arm, **{name: result[name] for name in _KEPT}, **facts}
        line |= {"top1": result["top1"], "recipe": result["recipe"]}
        line["images"] = json.loads((folder / "images.json").read_text())
        text = ",\n".join(json.dumps(each) for each in [*lines, line])
        write_atomic(self.path, f"[\n{text}\n]\n".encode())


def difference_row(lines: Sequence[Mapping[str, Any]], first: str, second: str) -> str:
    """A table's row: top-1 of one arm less another's, over the seeds of the second.

    The interval is of 95 %, by a paired t-test over the seeds, which are few.
    """
    seeds = [line["seed"] for line in lines if line["arm"] == second]
    right = [_right(lines, arm, seeds) for arm in (first, second)]
    mean, low, high = (100 * v for v in paired_t(*right, mean_of("right"))[:3])
    return f"| {second} | {len(seeds)} | {mean:+.2f} [{low:+.2f}, {high:+.2f}] |"


def mean_and_deviation(lines: Sequence[Mapping[str, Any]]) -> str:
    """Test top-1 in percent, with its deviation between seeds where there are several."""
    scores = 100 * np.array([line["top1"] for line in lines])
    return f"{scores.mean():.2f}" + (f" ± {scores.std(ddof=1):.2f}" if len(scores) > 1 else "")


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
