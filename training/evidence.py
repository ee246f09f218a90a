"""Runs the plan of studies, resumably: `python training/evidence.py --jobs 8 --minutes 25`.

Each call goes on where the last one stopped. Finished runs are left alone, interrupted runs
continue from their checkpoints. Lines go to `results/STUDY.jsonl` as runs finish.
"""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from math import inf
from pathlib import Path
from subprocess import CalledProcessError
from time import monotonic
from typing import NoReturn

from runtime.base.command import (
    CommandParser,
    fail,
    folder_path,
    interrupt_on_sigterm,
    positive_float,
    positive_int,
    run_command,
)
from runtime.base.errors import UserError
from runtime.model.locate import CHECKPOINT
from training.config.plan import MovedData
from training.records.run_folder import exclusive
from training.studies.costs import measure_cost
from training.studies.evidence_plan import (
    COST,
    PLAN,
    ROBUSTNESS,
    ROBUSTNESS_OF,
    SCALES,
    STUDIES,
    Scale,
    evidence_command,
    pairs_of_runs,
    planned_runs,
)
from training.studies.kept_lines import add_lines
from training.studies.pool import PoolResult, fail_runs, run_all
from training.studies.queue_plan import PLAN_FILE, add_to_plan, chosen_lines, read_plan, run_of
from training.studies.queue_studies import NOT_IN_ALL, plan_lines
from training.studies.result_lines import RESULTS
from training.studies.robustness_lines import lines_file, measure_missing_robustness
from training.studies.run_queue import keep_line, note_commit, run_queue, without_line
from training.studies.study_run import StudyRun

_FAILED = 1
_AFTERWARDS = (ROBUSTNESS, COST)


def main(arguments: Sequence[str]) -> int:
    """Runs what is missing of the chosen studies until the time is over."""
    parser = _parser()
    options = parser.parse_args(arguments)
    _refuse_unused(parser, options)
    if options.write_plan or options.keep:
        return _add(options.keep)
    if options.queue or options.pairs:
        return _queue(options) if options.queue else _pairs(options)
    scale = SCALES[options.scale]
    wanted = options.only or [*STUDIES, *_AFTERWARDS]
    runs_of = partial(planned_runs, scale=scale, data=options.data, data_root=options.data_root)
    runs = [run for study in PLAN if study.name in wanted for run in runs_of(study)]
    if options.dry_run:
        _list(runs, afterwards=[name for name in _AFTERWARDS if name in wanted])
        return 0
    _check_device(scale)
    deadline = inf if options.minutes is None else monotonic() + 60 * options.minutes
    failed, unfinished = _train(runs, scale, jobs=options.jobs, minutes=options.minutes)
    if ROBUSTNESS in wanted:
        moved = MovedData(options.data, options.data_root)
        _measure_robustness(runs_of(STUDIES[ROBUSTNESS_OF]), scale, moved, deadline=deadline)
    if COST in wanted:
        interrupt_on_sigterm()  # the benchmark ends, too
        try:
            if not measure_cost(scale, deadline=deadline):
                print(f"{COST} waits for the next call")  # noqa: T201
        except CalledProcessError as error:
            return fail(str(error), _FAILED)
    print(f"lines  {scale.results}\nnext   make results")  # noqa: T201
    if unfinished:
        print(f"{len(unfinished)} of {len(runs)} runs wait for the next call")  # noqa: T201
    if failed:
        return fail_runs(failed, of=len(runs))
    return 0


def _refuse_unused(parser: CommandParser, options: argparse.Namespace) -> None:
    """Refuses options that do nothing beside the one that says which runs are meant.

    Raises:
        UserError: there is such an option.
    """
    every = {"only", "queue", "pairs", "repeat", "jobs", "minutes", "data", "data_root", "scale"}
    for name in ("write_plan", "keep"):
        if getattr(options, name):
            beside = sorted({*every, "dry_run", "write_plan", "keep"} - {name})
            parser.refuse_unused(options, beside, f"beside --{name.replace('_', '-')}")
    if options.queue:
        parser.refuse_unused(options, ("only", "pairs", "data", "scale"), "beside --queue")
    else:
        parser.refuse_unused(options, ("repeat",), "without --queue")
    if options.pairs:
        parser.refuse_unused(options, ("only", "jobs"), "beside --pairs")


def _add(file: Path | None) -> int:
    """Adds the lines of `file` to those in results/; without one, new runs to the plan."""
    if file is None:
        print(f"{add_to_plan(plan_lines())} runs added to {PLAN_FILE}")  # noqa: T201
    else:
        added, there = add_lines(file, RESULTS)
        print(f"lines added to {RESULTS / file.name}: {added}; there before: {there}")  # noqa: T201
    return 0


def _pairs(options: argparse.Namespace) -> int:
    """Trains pairs of runs side by side, each pair at one epoch, until the time is over."""
    scale = SCALES[options.scale]
    pairs = pairs_of_runs(scale, data=options.data, data_root=options.data_root)
    if options.dry_run:
        _list([run for pair in pairs for run in pair], afterwards=())
        return 0
    _check_device(scale)
    deadline = inf if options.minutes is None else monotonic() + 60 * options.minutes
    failed: list[StudyRun] = []
    refused: list[UserError] = []
    for pair in pairs:
        left = (deadline - monotonic()) / 60
        if left <= 0:
            break
        minutes = None if left == inf else left
        try:
            # A pair that fails in every call must not keep those behind it from beginning.
            failed += _train(pair, scale, jobs=len(pair), minutes=minutes, in_step=True).failed
        except UserError as error:
            refused.append(error)
            print(f"left out: {error}", flush=True)  # noqa: T201
    code = fail_runs(failed, of=2 * len(pairs)) if failed else 0
    if refused:
        raise refused[0]
    return code


def _queue(options: argparse.Namespace) -> int:
    """Goes on with `results/plan.jsonl`."""
    if options.data_root is None:
        raise UserError(
            "--queue needs --data-root DIR, the folder with the data folders of the plan; "
            "docs/evidence.md says which"
        )
    chosen = chosen_lines(read_plan(), options.queue, not_in_all=NOT_IN_ALL)
    lines = chosen if options.repeat else without_line(chosen)
    if kept := len(chosen) - len(lines):
        print(f"{kept} of {len(chosen)} runs have their line in results/; --repeat takes them, too")  # noqa: T201
    if options.dry_run:
        _list([run_of(line, data_root=options.data_root) for line in lines], afterwards=())
        return 0
    failed, unfinished = run_queue(
        lines, data_root=options.data_root, jobs=options.jobs, minutes=options.minutes
    )
    if unfinished:
        print(f"{len(unfinished)} of {len(lines)} runs wait for the next call")  # noqa: T201
    return fail_runs(failed, of=len(lines)) if failed else 0


def _parser() -> CommandParser:
    parser = CommandParser(prog="python training/evidence.py", description=__doc__)
    parser.add_argument(
        "--only",
        action="append",
        choices=(*STUDIES, *_AFTERWARDS),
        help="this study (repeatable)",
    )
    parser.add_argument(
        "--jobs", type=positive_int, default=1, help="runs at a time on one device (default: 1)"
    )
    parser.add_argument(
        "--minutes",
        type=positive_float,
        help="then interrupt what runs; leave two more for checkpoints",
    )
    parser.add_argument("--data", metavar="NAME_OR_PATH", help="instead of the scale's data set")
    parser.add_argument(
        "--data-root",
        type=folder_path,
        metavar="DIR",
        help="where a known data set lies, or goes",
    )
    parser.add_argument("--scale", choices=SCALES, default="full", help="tiny: digits on a CPU")
    parser.add_argument(
        "--queue",
        action="append",
        metavar="NAME",
        help="instead of the studies, these runs of results/plan.jsonl: a study of it, a run, or "
        "all that is open, apart from what confirms (repeatable; docs/evidence.md)",
    )
    parser.add_argument(
        "--repeat",
        action="store_true",
        help="with --queue: also runs with a line that are not finished here; compares with it",
    )
    parser.add_argument(
        "--write-plan",
        action="store_true",
        help="add what is new in training/studies/queue_studies.py to results/plan.jsonl",
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="FILE",
        help="add the lines of FILE, made by a clone, to those in results/, which stay",
    )
    parser.add_argument(
        "--pairs",
        action="store_true",
        help="instead of the studies, pairs of runs of main and strong, side by side and at the "
        "same epoch, so that any stop leaves a pair",
    )
    parser.add_argument("--dry-run", action="store_true", help="list the runs, finished or not")
    return parser


def _check_device(scale: Scale) -> None:
    import torch

    if scale.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "torch finds no CUDA device here, which this plan is for; "
            "`--scale tiny` runs the same plan on digits, on a CPU"
        )


def _list(runs: Sequence[StudyRun], *, afterwards: Sequence[str]) -> None:
    states = []
    for run in runs:
        begun = (run.folder / CHECKPOINT).is_file()
        states.append("finished" if run.line() is not None else "begun" if begun else "missing")
        print(f"{states[-1]:<8}  {run.recipe.epochs:>3} epochs  {run.study}/{run.folder.name}")  # noqa: T201
    counts = ", ".join(
        f"{states.count(state)} {state}" for state in ("finished", "begun", "missing")
    )
    print(f"{len(runs)} runs: {counts}")  # noqa: T201
    if afterwards:
        print(f"and then: {', '.join(afterwards)}")  # noqa: T201


def _train(
    runs: Sequence[StudyRun],
    scale: Scale,
    *,
    jobs: int,
    minutes: float | None,
    in_step: bool = False,
) -> PoolResult:
    with ExitStack() as locks:
        for folder in dict.fromkeys(run.folder.parent for run in runs):
            locks.enter_context(exclusive(folder))
        for run in runs:  # of earlier calls: the file of lines may be lost
            _keep_line(run, scale, trained=False)
        return run_all(
            runs,
            jobs=jobs,
            minutes=minutes,
            in_step=in_step,
            on_start=note_commit,
            on_finish=partial(_keep_line, scale=scale, trained=True),
        )


def _keep_line(run: StudyRun, scale: Scale, *, trained: bool) -> None:
    if run.line() is not None:
        keep_line(run, scale.results / STUDIES[run.study].lines_file, trained=trained)


def _measure_robustness(
    runs: Sequence[StudyRun], scale: Scale, moved: MovedData, *, deadline: float
) -> None:
    measure_missing_robustness(
        [run for run in runs if run.line() is not None],
        scale.results / lines_file(ROBUSTNESS_OF),
        command=evidence_command(ROBUSTNESS, scale),
        device=scale.device,
        moved=moved,
        deadline=deadline,
    )


def command() -> NoReturn:
    run_command(main, extra="train")


if __name__ == "__main__":
    command()
