"""Which studies show no figure yet: whoever looks early may stop where they look best."""

from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path

import msgspec

from training.config.idle_keys import idle_keys
from training.studies.confirmation import seeds_asked_for
from training.studies.queue_plan import PlanLine, QueueStudy, run_of
from training.studies.queue_studies import ASKED, QUEUED, plan_lines
from training.studies.result_lines import Line, read_lines
from training.studies.table_rows import by_student


def why_it_waits(study: QueueStudy, results: Path) -> str | None:
    """Why a study of the queue shows no figure yet; None if it does.

    The answers of one that confirms are made once, of all planned runs of the methods that a
    question compares, when these are of as many seeds as the plan's rule asks for. A study that
    trains some of these runs again would show what they are worth before that, so it waits with it.

    Args:
        study: of the queue.
        results: the folder of the lines.
    """
    if study.roles:
        return _why_it_confirms_later(study, results)
    for other in QUEUED.values():
        if not other.roles or not _why_it_confirms_later(other, results):
            continue
        if shared := _runs(study.name) & _runs(other.name):
            return (
                f"{len(shared)} of its runs are runs of {other.name}, too, which is not complete. "
                "Figures are made when it is, so that nobody can stop where they look best."
            )
    return None


def unseen_studies(results: Path) -> set[str]:
    """The studies of the queue of whose runs no figure is printed when they finish."""
    return {study.name for study in QUEUED.values() if study.roles or why_it_waits(study, results)}


def _why_it_confirms_later(study: QueueStudy, results: Path) -> str | None:
    lines = read_lines(results / f"{study.name}.jsonl")
    compared = {
        study.roles.get(name, name) for asked in ASKED for name in (asked.first, asked.second)
    }
    done, planned = runs_of_queue(study.name, lines, compared)
    there = f"{done} of {planned} runs that the questions compare are there."
    if done < planned:
        return (
            f"{there} Figures are made when all are, so that nobody can stop where they look best."
        )
    asked = wanted_seeds(study, lines)
    seeds = len({line.seed for line in plan_lines() if line.study == study.name})
    if asked is None or asked <= seeds:
        return None
    return (
        f"{there} They are of {seeds} seeds, and the first pairs ask for {asked} by the plan's "
        "rule. Figures are made when the runs of all these seeds are there."
    )


def runs_of_queue(
    study: str, lines: Sequence[Line], methods: Collection[str] | None = None
) -> tuple[int, int]:
    """How many runs of this study of the queue have their line, and how many are planned.

    Args:
        study: its name.
        lines: of the study.
        methods: those whose runs count; None: all.
    """
    wanted = {
        (x.arch, x.method, x.seed)
        for x in plan_lines()
        if x.study == study and (methods is None or x.method in methods)
    }
    found = {(line["arch"], line["method"], line["seed"]) for line in lines}
    return len(wanted & found), len(wanted)


def _runs(study: str) -> set[bytes]:
    """What is trained in the runs of a study, whatever they are called."""
    return {_trained(msgspec.json.encode(line)) for line in plan_lines() if line.study == study}


@cache
def _trained(planned: bytes) -> bytes:
    """What decides the weights of the run of a line of the plan. Other lines may say it otherwise.

    The line comes as JSON, because a line with its settings is no key of a cache.
    """
    line = msgspec.json.decode(planned, type=PlanLine)
    run = run_of(line, data_root=Path())
    recipe = msgspec.to_builtins(run.recipe)
    idle = idle_keys(run.method.terms, recipe)
    used = {key: value for key, value in recipe.items() if key not in idle}
    student = (line.arch, line.width, line.image_size, line.data, line.seed)
    return msgspec.json.encode((run.method.terms, *student, used), order="sorted")


def wanted_seeds(study: QueueStudy, lines: Sequence[Line]) -> int | None:
    """How many seeds the plan's rule asks for; None while it is too early to say."""
    # A student without a line has no pairs.
    none: dict[str, Sequence[Line]] = {f"{arch} x{width:g}": [] for arch, width in study.students}
    return seeds_asked_for(none | dict(by_student(lines)), ASKED, study.roles)
