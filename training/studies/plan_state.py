"""What is measured of the plans, the GPU's studies and the queue, and what is not."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from training.config.idle_keys import read_settings
from training.data.load import PUBLISHED
from training.records.journal import counted
from training.studies.evidence_plan import (
    COST,
    FULL,
    PLAN,
    ROBUSTNESS,
    ROBUSTNESS_OF,
    PlannedStudy,
    evidence_command,
    planned_runs,
)
from training.studies.queue_studies import QUEUED
from training.studies.result_lines import (
    Line,
    as_json,
    method_name,
    read_lines,
    terms_of,
    whole_recipe,
)
from training.studies.robustness_lines import lines_file
from training.studies.study_table import paragraph, table_head, table_line
from training.studies.waiting import runs_of_queue, why_it_waits


def open_table(results: Path, *, links: str) -> str:
    """The plan as a table: what is measured of it, and by which command the rest will be.

    Args:
        results: the folder of the lines.
        links: what leads from the page to `results`: "results/", or "" for a page in it.
    """
    plan = "docs/evidence.md" if links else "../docs/evidence.md"
    table = table_head(["study", "question", "runs measured", "command"])
    for study in PLAN:
        lines = read_lines(results / study.lines_file)
        planned = planned_runs(study, FULL)
        done = len(planned) - len(_missing_runs(study, lines))
        name = f"[{study.name}]({links}{study.name}.md)" if lines else study.name
        command = f"`{evidence_command(study.name)}`"
        table.append(table_line([name, study.question, f"{done} of {len(planned)}", command]))
    for queued in reversed(QUEUED.values()):
        lines = read_lines(results / f"{queued.name}.jsonl")
        name = f"[{queued.name}]({links}{queued.name}.md)" if lines else queued.name
        done, of = runs_of_queue(queued.name, lines)
        state = f"{done} of {of}"
        command = f"`python training/evidence.py --queue {queued.name} --data-root DIR`"
        if queued.roles and why_it_waits(queued, results):  # it is run at its own commit
            command = f"[Running it]({plan}#running-it)"
        elif done == of:
            command = ""
        elif queued.closed:
            state, command = f"{state}; the others were dropped ([amendments]({plan}))", ""
        table.append(table_line([name, queued.question, state, command]))
    afterwards: Mapping[str, tuple[str, Path]] = {
        ROBUSTNESS: (
            "What is left of the gain on corrupted images?",
            results / lines_file(ROBUSTNESS_OF),
        ),
        COST: ("What does a step cost with each method?", results / f"{COST}.jsonl"),
    }
    for name, (question, file) in afterwards.items():
        state = f"[yes]({links}{file.stem}.md)" if file.exists() else "none"
        table.append(table_line([name, question, state, f"`{evidence_command(name)}`"]))
    return "\n".join(table)


def missing_sentence(study: PlannedStudy, lines: Sequence[Line]) -> list[str]:
    """A sentence with the planned rows that lack a seed, and the command that measures them."""
    missing = _missing_runs(study, lines)
    if not missing:
        return []
    students: dict[str, list[str]] = {}  # by the methods that they lack
    for arch in dict.fromkeys(arch for arch, _, _ in missing):
        methods = dict.fromkeys(method for its, method, _ in missing if its == arch)
        students.setdefault(", ".join(methods), []).append(arch)
    named = "; ".join(f"{' and '.join(archs)}: {names}" for names, archs in students.items())
    return [
        paragraph(
            f"Not measured yet: {len(missing)} of {len(planned_runs(study, FULL))} runs of "
            f"{counted(FULL.epochs(study), 'epoch')}, seeds 0 to {study.seeds - 1} ({named}). "
            f"They will be by `{evidence_command(study.name)}`."
        )
    ]


def _missing_runs(study: PlannedStudy, lines: Sequence[Line]) -> list[tuple[str, str, int]]:
    """Student, method and seed of the planned runs that have no line.

    A line of another width, image size or recipe is of another run. Keys of a recipe that the run
    does not read do not count.
    """
    size = FULL.image_size or PUBLISHED[FULL.data].image_size
    measured = [
        (
            *(line["arch"], line["width"], line["image_size"]),
            *(method_name(line), line["seed"], read_settings(terms_of(line), whole_recipe(line))),
        )
        for line in lines
        if line["data"] == FULL.data
    ]
    return [
        (run.arch, run.method.name, run.seed)
        for run in planned_runs(study, FULL)
        if (
            *(run.arch, run.shared.width, size),
            *(run.method.name, run.seed, read_settings(run.method.terms, as_json(run.recipe))),
        )
        not in measured
    ]
