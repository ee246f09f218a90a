"""Which studies show no figure yet: whoever looks early may stop where they look best."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from training.studies.confirmation import seeds_asked_for
from training.studies.plan_state import runs_of_queue, seeds_of_queue
from training.studies.queue_plan import QueueStudy
from training.studies.queue_studies import ASKED, QUEUED, plan_lines
from training.studies.result_lines import Line, read_lines
from training.studies.table_rows import by_student


def why_it_waits(study: QueueStudy, results: Path) -> str | None:
    """Why a study of the queue shows no figure yet; None if it does.

    The answers of one that confirms are made once, of all runs that were planned, when these are of
    as many seeds as the plan's rule asks for. A study that trains some of these runs again would
    show what they are worth before that, so it waits with it.

    Args:
        study: of the queue.
        results: the folder of the lines.
    """
    if study.roles:
        return _why_it_confirms_later(study, results)
    for other in QUEUED.values():
        shared = other.roles and _runs(study.name) & _runs(other.name)
        if shared and _why_it_confirms_later(other, results):
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
    done, planned = runs_of_queue(study.name, lines)
    there = f"{done} of {planned} runs are there."
    if done < planned:
        return (
            f"{there} Figures are made when all are, so that nobody can stop where they look best."
        )
    asked, seeds = wanted_seeds(study, lines), seeds_of_queue(study.name)
    if asked is None or asked <= seeds:
        return None
    return (
        f"{there} They are of {seeds} seeds, and the first pairs ask for {asked} by the plan's "
        "rule. Figures are made when the runs of all these seeds are there."
    )


def _runs(study: str) -> set[tuple[object, ...]]:
    """What is trained in the runs of a study, whatever they are called."""
    return {
        (
            *(line.method, line.arch, line.width, line.data, line.image_size, line.recipe),
            *(msgspec.json.encode(line.settings, order="sorted"), line.seed),
        )
        for line in plan_lines()
        if line.study == study
    }


def wanted_seeds(study: QueueStudy, lines: Sequence[Line]) -> int | None:
    """How many seeds the plan's rule asks for; None while it is too early to say."""
    # A student without a line has no pairs.
    none: dict[str, Sequence[Line]] = {f"{arch} x{width:g}": [] for arch, width in study.students}
    return seeds_asked_for(none | dict(by_student(lines)), ASKED, study.roles)
