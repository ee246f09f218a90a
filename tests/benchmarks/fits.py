"""What `fit` is worth where the class is at an edge: `python tests/benchmarks/fits.py [--seeds N]`.

It writes pictures of 3:1 whose class is the colour of a mark at the left or the right end, trains
on them with `training/run.py` for each fit and seed, and prints one JSON object a run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from runtime.model.card import FITS

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tests.support.edge_marks import write_edge_marks  # noqa: E402

RECIPE = """
epochs: 14
batch_size: 20
optimizer: adamw
learning_rate: 3e-3
schedule: one-cycle
padding: 1
"""
STUDENT = ("--arch", "shufflenetv2", "--width", "0.5", "--image-size", "16", "--device", "cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N-1")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = write_edge_marks(root / "marks", train=24, test=20)
        recipe = root / "quick.yaml"
        recipe.write_text(RECIPE)
        for seed in range(options.seeds):
            for fit in FITS:
                out = root / f"{fit}-{seed}"
                words = [*STUDENT, "--data", str(data), "--recipe", str(recipe), "--fit", fit]
                words += ["--seed", str(seed), "--out", str(out), "--allow-leaks"]
                command = [sys.executable, str(ROOT / "training" / "run.py"), *words]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                result = json.loads((out / "result.json").read_text())
                kept = ("command", "seed", "top1", "balanced_accuracy", "worst_class", "epochs")
                line = {"fit": fit, **{key: result[key] for key in kept}}
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
