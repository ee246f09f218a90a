"""Top-1 and ECE of runs under image corruptions: measuring them, their lines and their table."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.base.errors import UserError
from runtime.base.files import sha256_of
from runtime.model.figures import expected_calibration_error, softmax, top_k
from runtime.model.locate import CHECKPOINT, find_run
from training.config.plan import MovedData
from training.studies.result_lines import Line, merge_lines, read_lines, whole_recipe
from training.studies.study_methods import method_of
from training.studies.study_run import StudyRun
from training.studies.study_table import Figure, gain, mean_and_deviation, table_head, table_line
from training.studies.table_rows import baseline_of, by_student, rows_of, shared_settings

# torch takes seconds to import, so what imports it is imported in the functions that need it.
if TYPE_CHECKING:
    import torch

    from training.data import Dataset
    from training.records.checkpoint import TrainedRun

LINES_SUFFIX = "-robustness"  # of a file of lines, after the study's name


def lines_file(study: str) -> str:
    return f"{study}{LINES_SUFFIX}.jsonl"


def measure_missing_robustness(
    runs: Sequence[StudyRun],
    path: Path,
    *,
    command: str,
    device: str,
    moved: MovedData,
    deadline: float,
) -> None:
    """Measures the runs that have no line in `path`, and adds their lines to it.

    Args:
        runs: finished ones.
        path: the file of lines.
        command: that the lines state.
        device: "auto", "cpu" or "cuda".
        moved: where their data lies.
        deadline: when no other run is begun, in seconds on the clock of `time.monotonic`.

    Raises:
        UserError: if the checkpoint of a run was deleted.
    """
    known = [line["checkpoint_sha256"] for line in read_lines(path)]
    for run in runs:
        folder = run.folder
        if not (folder / CHECKPOINT).is_file():
            raise UserError(
                f"{folder} has a result and no {CHECKPOINT}: put it back to measure its "
                "robustness, or remove the folder to train the run again"
            )
        if sha256_of(folder / CHECKPOINT) in known:
            continue
        if monotonic() >= deadline:
            print(f"{folder.name}: robustness waits for the next call")  # noqa: T201
            return
        keep_robustness(run, path, command=command, device=device, moved=moved)


def keep_robustness(
    run: StudyRun, path: Path, *, command: str, device: str, moved: MovedData
) -> None:
    """Measures a finished run and adds its line to `path`; the arguments are those above."""
    line = measure_robustness(
        run.folder, study=run.study, command=command, device=device, moved=moved
    )
    # The study knows the method's name, where a checkpoint knows its settings only.
    merge_lines(path, [{**line, "method": run.method.name}])
    print(f"{run.folder.name}: robustness measured", flush=True)  # noqa: T201


def measure_robustness(
    run: Path, *, study: str, command: str, device: str, moved: MovedData, seed: int = 0
) -> Line:
    """The line of a finished run.

    Args:
        run: its folder.
        study: the word that the line has for its study.
        command: that the line states.
        device: "auto", "cpu" or "cuda".
        moved: where its data lies.
        seed: of the noise.

    Raises:
        UserError: if the folder is not that of a finished run.
    """
    from training.engine.device import choose_device, device_name, keep_freed_memory, versions
    from training.engine.full_memory import full_memory_told
    from training.records.checkpoint import load_trained
    from training.records.run_data import load_run_dataset

    chosen = choose_device(device)
    keep_freed_memory(chosen)
    trained = load_trained(find_run(run))
    if not trained.result:
        raise UserError(f"{run} is not finished; go on with --resume, then measure")
    dataset = load_run_dataset(trained, moved)
    with full_memory_told(chosen, f"an evaluation at {dataset.input.size} px"):
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
        "command": command,
        "recipe": result["recipe"],
    }


def _figures(
    trained: "TrainedRun", dataset: "Dataset", device: "torch.device", seed: int
) -> dict[str, Any]:
    """`clean` is {top1, ece}; `corrupted` has five of these for each corruption, by severity."""
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


def robustness_table(lines: Sequence[Line]) -> str:
    """A Markdown table: top-1 under each corruption, as the mean over severities 1 to 5.

    `all` is the mean over the corruptions. The gain over CE is that of `all`, paired by seed.
    """
    corruptions: dict[str, Figure] = {
        name: partial(_of, figure="top1", name=name) for name in lines[0]["corrupted"]
    }
    top1: dict[str, Figure] = {"clean": _clean_top1, **corruptions, "all": _all_top1}
    table = table_head(["student", "method", "seeds", *top1, "over CE", "ECE clean", "ECE all"])
    shared = shared_settings(lines)
    for student, own in by_student(lines).items():
        rows = rows_of(own, shared=shared)
        table += [
            table_line(
                [
                    student,
                    row.name,
                    row.seeds,
                    *(mean_and_deviation(row.lines, figure) for figure in top1.values()),
                    gain(row, baseline_of(row, rows), _all_top1),
                    mean_and_deviation(row.lines, _clean_ece),
                    mean_and_deviation(row.lines, _all_ece),
                ]
            )
            for row in rows
        ]
    return "\n".join(table)


def _clean_top1(line: Line) -> float:
    return 100 * float(line["clean"]["top1"])


def _clean_ece(line: Line) -> float:
    return 100 * float(line["clean"]["ece"])


def _all_top1(line: Line) -> float:
    return float(np.mean([_of(line, figure="top1", name=name) for name in line["corrupted"]]))


def _all_ece(line: Line) -> float:
    return float(np.mean([_of(line, figure="ece", name=name) for name in line["corrupted"]]))


def _of(line: Line, *, figure: str, name: str) -> float:
    """The mean of a figure, in per cent, over the severities of a corruption."""
    return 100 * float(np.mean([each[figure] for each in line["corrupted"][name]]))
