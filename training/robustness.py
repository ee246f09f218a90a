"""Top-1 and ECE under image corruptions: `python training/robustness.py RUN [RUN ...]`.

The test split, clean and under noise, blur, brightness, contrast and JPEG at severities 1 to 5, as
uint8 images before normalisation. Adds a line for each run to `results/STUDY-robustness.jsonl`.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import msgspec
import numpy as np

from runtime.base.command import CommandParser, folder_path, run_command
from runtime.base.errors import UserError
from runtime.base.files import sha256_of
from runtime.model.figures import expected_calibration_error, softmax, top_k
from runtime.model.locate import CHECKPOINT, find_run
from training.config.options import DEVICES, seed_number
from training.studies.lines import RESULTS, Line, merge_lines, read_lines, whole_recipe
from training.studies.robustness_table import LINES_SUFFIX, robustness_table
from training.studies.rows import method_of

if TYPE_CHECKING:
    import torch

    from training.data import Dataset
    from training.records.checkpoint import TrainedRun


class Moved(NamedTuple):
    """Where the data lies that a run was trained on; None: where it lay then."""

    data: str | None = None
    data_root: Path | None = None


def main(arguments: Sequence[str]) -> int:
    """Measures every run, then prints the table."""
    parser = CommandParser(prog="python training/robustness.py", description=__doc__)
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run")
    add("--study", default="main", help="the word for these runs (default: main)")
    add("--device", choices=DEVICES, default="auto")
    add("--seed", type=seed_number, default=0, help="of the noise (default: 0)")
    add("--data", metavar="NAME_OR_PATH", help="where the data lies now, if it was moved")
    add("--data-root", type=folder_path, metavar="DIR", help="the same for a known data set")
    options = parser.parse_args(arguments)
    path = RESULTS / lines_file(options.study)
    moved = Moved(options.data, options.data_root)
    how = {"study": options.study, "device": options.device, "moved": moved, "seed": options.seed}
    lines = []
    for run in options.runs:
        lines.append(measure(run, **how))
        merge_lines(path, lines[-1:])
    print(f"{robustness_table(lines)}\n\nlines  {path}")  # noqa: T201
    return 0


def lines_file(study: str) -> str:
    return f"{study}{LINES_SUFFIX}.jsonl"


def measure_missing(
    runs: Sequence[Path], path: Path, *, study: str, device: str, moved: Moved, deadline: float
) -> None:
    """Adds to `path` the lines that it lacks, until `deadline` (on the clock of `monotonic`).

    UserError for a finished run whose checkpoint was deleted.
    """
    known = [line["checkpoint_sha256"] for line in read_lines(path)]
    for run in runs:
        if not (run / CHECKPOINT).is_file():
            raise UserError(
                f"{run} has a result and no {CHECKPOINT}: put it back to measure its robustness, "
                "or remove the folder to train the run again"
            )
        if sha256_of(run / CHECKPOINT) in known:
            continue
        if monotonic() >= deadline:
            print(f"{run.name}: robustness waits for the next call")  # noqa: T201
            return
        merge_lines(path, [measure(run, study=study, device=device, moved=moved)])
        print(f"{run.name}: robustness measured", flush=True)  # noqa: T201


def measure(run: Path, *, study: str, device: str, moved: Moved, seed: int = 0) -> Line:
    """The line of a finished run; UserError for a folder that is none."""
    from training.engine.device import choose_device, device_name
    from training.finish import versions
    from training.records.checkpoint import load_run_dataset, load_trained

    chosen = choose_device(device)
    trained = load_trained(find_run(run))
    if not trained.result:
        raise UserError(f"{run} is not finished; go on with --resume, then measure")
    dataset = load_run_dataset(_where_data_lies(trained, moved))
    figures = _figures(trained, dataset, chosen, seed)
    result = trained.result
    kept = ("arch", "width", "image_size", "data", "terms", "seed", "epochs", "temperature")
    return {
        "study": study,
        "method": method_of(result["terms"], whole_recipe(result), data=result["data"]).name,
        **{key: result[key] for key in kept},
        "checkpoint_sha256": trained.checkpoint_sha256,
        "test_images": len(dataset.test_labels),
        "noise_seed": seed,
        **figures,
        "device": device_name(chosen),
        "versions": versions(),
        "recipe": result["recipe"],
    }


def _where_data_lies(trained: "TrainedRun", moved: Moved) -> "TrainedRun":
    plan = trained.plan
    if moved.data is not None:
        plan = msgspec.structs.replace(plan, data_argument=moved.data)
    if moved.data_root is not None:
        plan = msgspec.structs.replace(plan, data_root=str(moved.data_root))
    return replace(trained, plan=plan)


def _figures(
    trained: "TrainedRun", dataset: "Dataset", device: "torch.device", seed: int
) -> dict[str, Any]:
    """`clean`: {top1, ece}; `corrupted`: the same for each corruption, severities 1 to 5."""
    from training.evaluation.logits import images_at_once, logits_of
    from training.studies.corruptions import CORRUPTIONS, SEVERITIES, corrupt

    student, spec = trained.student.to(device), trained.plan.input
    labels = dataset.test_labels
    count = images_at_once(spec.size)

    def figures(corruption: str | None, severity: int) -> dict[str, float]:
        logits = []
        for first in range(0, len(labels), count):
            images = dataset.test_images[first : first + count]
            if corruption is not None:
                images = corrupt(images, corruption, severity, seed=seed + first)
            logits.append(logits_of(student, images, spec, device=device))
        whole = np.concatenate(logits)
        probabilities = softmax(whole, temperature=trained.temperature)
        return {
            "top1": top_k(whole, labels, 1),
            "ece": expected_calibration_error(probabilities, labels),
        }

    return {
        "clean": figures(None, 0),
        "corrupted": {
            corruption: [figures(corruption, severity) for severity in SEVERITIES]
            for corruption in CORRUPTIONS
        },
    }


def command() -> NoReturn:
    run_command(main, extra="train")


if __name__ == "__main__":
    command()
