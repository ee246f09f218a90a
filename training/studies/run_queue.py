"""Runs the queue of `results/plan.jsonl`, resumably, and keeps a line of each run that finishes."""

import os
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from runtime.base.files import write_atomic
from runtime.model.locate import CHECKPOINT
from training.config.plan import MovedData
from training.records.run_folder import exclusive
from training.studies.kept_lines import differing_figures, former_line
from training.studies.pool import PoolResult, run_all
from training.studies.queue_plan import QUEUE_RUNS, PlanLine, run_of
from training.studies.result_lines import (
    RESULTS,
    Line,
    fit_of,
    merge_lines,
    read_lines,
    refuse_other_data,
)
from training.studies.robustness_lines import keep_robustness, lines_file
from training.studies.study_run import StudyRun
from training.studies.waiting import unseen_studies

PAUSE = QUEUE_RUNS / "pause"  # while this file is there, the runs of the queue stand still
COMMIT_VARIABLE = "SKD_EDGE_COMMIT"  # of the environment, where the tree has no .git
COMMIT_FILE = "commit.txt"  # in a run's folder: the commits that have trained it
_AND, _UNKNOWN = ", ", "unknown"
_ROOT = Path(__file__).resolve().parents[2]


def run_queue(
    lines: Sequence[PlanLine],
    *,
    data_root: Path,
    jobs: int,
    minutes: float | None,
    results: Path = RESULTS,
) -> PoolResult:
    """Runs what is missing of `lines`, in their order; one call at a time.

    Args:
        lines: of the plan.
        data_root: the folder of the data folders.
        jobs: how many run at a time.
        minutes: after which no run begins or goes on; None: no limit.
        results: the folder of the lines that are written.
    """
    runs = [run_of(line, data_root=data_root) for line in lines]
    corrupted = {line.command for line in lines if line.corrupted}

    def keep(run: StudyRun, *, trained: bool = True) -> None:
        keep_line(run, results / f"{run.study}.jsonl", trained=trained)
        if run.options.command in corrupted:
            keep_corrupted_line(run, results)

    with ExitStack() as locks:
        for folder in dict.fromkeys(run.folder.parent for run in runs):
            locks.enter_context(exclusive(folder))
        for run in runs:  # of earlier calls: the files of lines may be lost
            if run.line() is not None:
                keep(run, trained=False)
        _refuse_other_data([run for run in runs if run.line() is None], results)
        return run_all(
            runs,
            jobs=jobs,
            minutes=minutes,
            pause=PAUSE,
            # Whoever sees how they do may stop a study that confirms where it looks best.
            unseen=unseen_studies(results),
            on_start=note_commit,
            on_finish=keep,
        )


def without_line(lines: Sequence[PlanLine], results: Path = RESULTS) -> list[PlanLine]:
    """Those of `lines` that lack a line, whoever trained them and wherever.

    A run that is tested on corrupted images has two lines.
    """
    studies = {line.study for line in lines}
    kept = _commands_in(results / f"{study}.jsonl" for study in studies)
    tested = _commands_in(results / lines_file(study) for study in studies)
    return [
        line
        for line in lines
        if line.command not in kept or (line.corrupted and line.command not in tested)
    ]


def keep_line(run: StudyRun, file: Path, *, trained: bool) -> None:
    """Writes the line of a finished run, with its commit and the record of its test images.

    A line that is there stays. It is said where the run differs from it.

    Args:
        run: a finished one.
        file: of the lines of its study.
        trained: whether it was trained right now. Then it is also said that it is equal.

    Raises:
        UserError: if the file has lines of other images under this name.
    """
    line = run.recorded_line()
    assert line is not None
    kept = read_lines(file)
    size, fit = line["image_size"], fit_of(line)
    digest = line.get("content_digest")
    refuse_other_data(kept, file, line["data"], digest, image_size=size, fit=fit)
    former = former_line(kept, line)
    if former is None:
        merge_lines(file, [with_commit(line, run)])
        return
    names = ", ".join(differing_figures(former, line))
    if names or trained:
        found = f"differs in {names}" if names else "equal in all figures"
        print(f"{run.study}: {run.folder.name}: {found}; its line stays", flush=True)  # noqa: T201


def _refuse_other_data(runs: Sequence[StudyRun], results: Path) -> None:
    """Refuses data that are not those of the lines, before a run is trained on them in vain.

    Where no line states its images there is nothing to compare, and the data are not read.
    """
    firsts = {
        (run.study, run.options.data, run.options.image_size, run.recipe.fit): run
        for run in reversed(runs)
    }
    for run in firsts.values():
        file, name = results / f"{run.study}.jsonl", Path(run.options.data).name
        kept = read_lines(file)
        if any(line["data"] == name and line.get("content_digest") for line in kept):
            from training.data import load_stated  # takes seconds to import

            dataset = load_stated(run.options, recipe=run.recipe)
            size, fit = dataset.input.size, run.recipe.fit
            digest = dataset.content_digest(show=True)
            refuse_other_data(kept, file, dataset.name, digest, image_size=size, fit=fit)


def with_commit(line: Line, run: StudyRun) -> Line:
    """The line with the commit that trained its run."""
    return {**line, "commit": _commit_of_run(run)}


def keep_corrupted_line(run: StudyRun, results: Path) -> None:
    """Tests a finished run on corrupted images and writes the line, unless it is there."""
    command, file = run.options.command, results / lines_file(run.study)
    assert command is not None
    if command in _commands_in([file]):
        return
    keep_robustness(run, file, command=command, device="cpu", moved=MovedData(run.options.data))


def _commands_in(files: Iterable[Path]) -> set[object]:
    """The commands that the lines of these files state."""
    return {found.get("command") for file in files for found in read_lines(file)}


def note_commit(run: StudyRun) -> None:
    """Adds the present commit to those that have trained the run, before it begins or goes on."""
    begun = (run.folder / CHECKPOINT).exists()
    # Older versions noted a run's commit when it had finished, and so not that of its beginning.
    commits = _commit_of_run(run).split(_AND) if begun or _noted(run) else []
    if (commit := commit_of(_ROOT)) not in commits:
        run.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(run.folder / COMMIT_FILE, _AND.join([*commits, commit]).encode())


def _commit_of_run(run: StudyRun) -> str:
    """The commit that trained the run, or those: "first, second"; "unknown" if none was noted."""
    return (run.folder / COMMIT_FILE).read_text(encoding="utf-8") if _noted(run) else _UNKNOWN


def _noted(run: StudyRun) -> bool:
    return (run.folder / COMMIT_FILE).exists()


def commit_of(tree: Path) -> str:
    """The commit of the code in `tree`, with "-dirty" where the code differs; or "unknown".

    A tree that was carried to another machine without `.git` has the one that COMMIT_VARIABLE says.
    """
    try:
        if Path(_git(tree, "rev-parse", "--show-toplevel")).resolve() != tree.resolve():
            raise FileNotFoundError  # the repository of a folder above knows nothing of this code
        head = _git(tree, "rev-parse", "--short=12", "HEAD")
        changed = _git(tree, "status", "--porcelain", "--", "training", "runtime")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get(COMMIT_VARIABLE) or _UNKNOWN
    return f"{head}-dirty" if changed else head


def _git(tree: Path, *words: str) -> str:
    command = ["git", "-C", str(tree), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
