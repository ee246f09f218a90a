"""What a model accepts of pictures of other things: `python tests/benchmarks/unknown_pictures.py`.

A student is trained on the digits 0 to 7 and exported, both by their commands. Then its files
answer test images of these eight digits, all images of the other two, and photographs. It prints
how many answers are accepted at the file's threshold, how many of the accepted ones are wrong, and
how well the confidence tells known pictures from unknown ones (AUROC; 50 % says nothing).
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime import open_classifier
from runtime.model.bundle import read_card
from training.data import load_dataset
from training.evaluation.confidence import auroc

ROOT = Path(__file__).resolve().parents[2]
KNOWN = 8
PRECISIONS = "fp32,int8"
SIZE = 16  # pixels, so that it is trained in a minute


def write_known(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
    """Writes eight digits as a data set; gives unknown images, and known ones with their labels."""
    digits = load_dataset("digits", image_size=SIZE)
    unknown = []
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        images = np.asarray(getattr(digits, f"{split}_images"))
        labels = np.asarray(getattr(digits, f"{split}_labels"))
        known = labels < KNOWN
        np.save(folder / f"{split}_images.npy", images[known])
        np.save(folder / f"{split}_labels.npy", labels[known])
        unknown.append(images[~known])
    (folder / "classes.txt").write_text("\n".join(digits.class_names[:KNOWN]))
    return np.concatenate(unknown), images[known], labels[known]


def python(*words: object) -> None:
    subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, check=True, capture_output=True)


def report(
    bundle: Path,
    unknown: NDArray[np.uint8],
    known: NDArray[np.uint8],
    labels: NDArray[np.int64],
    photographs: Sequence[Path],
    seed: int,
) -> None:
    """Prints a line for each file of the bundle."""
    for file in read_card(bundle).files:
        with open_classifier(bundle, precision=file.precision, backend="onnx-cpu") as classifier:
            prepared = np.stack([classifier.prepare(path) for path in photographs])
            answers = classifier.probabilities(known)
            sure = answers.max(axis=1)
            others = {
                "digits 8 and 9": classifier.probabilities(unknown).max(axis=1),
                "photographs": classifier.probabilities(prepared).max(axis=1),
            }
        words = [f"seed {seed}, {file.precision}:"]
        if file.threshold is None:
            words.append(f"no threshold ({file.no_threshold});")
            least = np.inf
        else:
            least = file.threshold.probability
            accepted = sure >= least
            wrong = (answers.argmax(axis=1) != labels)[accepted].sum()
            words.append(
                f"threshold {least:.4f}, accepts {accepted.mean():.1%} of {len(sure)} known test "
                f"images with {wrong} errors;"
            )
        for name, confidence in others.items():
            scores = np.concatenate([sure, confidence])
            area = auroc(scores, np.arange(len(scores)) < len(sure))
            share = f"{np.mean(confidence >= least):.1%}" if np.isfinite(least) else "-"
            words.append(f"{len(confidence)} {name}: accepts {share}, AUROC {area:.1%};")
        print(" ".join(words).rstrip(";"), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photographs", type=Path, help="a folder of photographs")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    photographs = sorted(path for path in options.photographs.rglob("*.JPEG"))[::2][:500]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unknown, known, labels = write_known(folder / "eight")
        for seed in range(options.seeds):
            run = folder / f"run{seed}"
            data = ("--data", folder / "eight", "--recipe", "digits")
            student = ("--arch", "mobilenetv2", "--drg", "--dsr", "--seed", seed)
            python(ROOT / "training" / "run.py", *student, *data, "--out", run)
            python(ROOT / "export" / "run.py", run, "--precision", PRECISIONS)
            report(run / "bundle", unknown, known, labels, photographs, seed)


if __name__ == "__main__":
    main()
