"""The pages below `results/` and the blocks of RESULTS.md, as Markdown made of raw lines alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from training.studies.confirmation import (
    answer_in_sentences,
    confirmed_parts,
    deviations_table,
    gain_in_a_sentence,
    weights_table,
)
from training.studies.costs import cost_table
from training.studies.evidence_plan import (
    COST,
    ROBUSTNESS,
    ROBUSTNESS_OF,
    STUDIES,
    evidence_command,
)
from training.studies.evidence_tables import answers_table, differences_table
from training.studies.line_groups import caption, data_and_recipe, groups, recipe_and_settings
from training.studies.plan_state import missing_sentence, open_table
from training.studies.queue_plan import PLAN_FILE, QueueStudy
from training.studies.queue_studies import ASKED, QUEUED
from training.studies.result_lines import (
    Line,
    commands_of,
    hardware_of,
    read_lines,
    versions_of,
)
from training.studies.robustness_lines import LINES_SUFFIX, lines_file, robustness_table
from training.studies.study_methods import BASELINE
from training.studies.study_table import (
    best_validated,
    paragraph,
    plot_name,
    plot_study,
    short_table,
    study_table,
)
from training.studies.table_rows import by_student, rows_of
from training.studies.variant_choice import choice_table, filter_table
from training.studies.waiting import wanted_seeds, why_it_waits

INDEX = "README.md"
OPEN = "open"
ANSWER, GAIN = "answer", "gain"  # of the confirming study, in three sentences and in one
PRINTED = "h100"  # what commands printed on that GPU
_LEGEND = """\
Top-1 and top-5 are those of the last epoch on the whole test split, mean ± standard deviation over
the seeds. "over CE" is the mean of the differences to cross-entropy between runs of one seed, ±
their standard deviation; it is empty where cross-entropy was not run with this recipe. ECE is after
calibration, with 15 bins. "parameters" are those of the deployed student, and in brackets how many
more than cross-entropy's. NLL is of the test split after calibration, validation NLL of the held
out images at the temperature at which it is lowest, AUROC of right against wrong answers by
confidence. "more in training" are parameters that only training has. "s" is the time of a training
with its evaluations on a machine that also did other work: it does not compare methods,
`training/benchmark.py` does.

A table names its recipe (training/config/recipes), and the settings in which all of its runs differ
from it. In brackets behind a method stand the settings of that row alone. Settings that a method
does not read are left out."""

_DIFFERENCES = """\
Differences to cross-entropy with 95 % intervals: of a bootstrap that draws seeds and test images
anew, and with fewer than ten pairs of seeds of a paired t-test over them
(`training/studies/paired_tests.py`), and p-values adjusted for all methods of the table:"""
_CHOICE = """\
Left are those with DRG and DSR that no student's filter puts out and that have all five folds; on
held out images, in the mean of the students (`training/studies/variant_choice.py`):"""


def page_texts(results: Path) -> dict[str, str]:
    """All pages below `results/`, by file name."""
    pages = {f"{file.stem}.md": _study_page(file) for file in study_files(results)}
    for file in sorted(results.glob(f"*{LINES_SUFFIX}.jsonl")):
        pages[f"{file.stem}.md"] = _page(file.stem, file, _robustness(file))
    if (cost := results / f"{COST}.jsonl").exists():
        parts = [cost_table(cost), _shell([evidence_command(COST)])]
        pages[f"{COST}.md"] = _page("What a step costs", cost, parts)
    if (printed := results / f"{PRINTED}.json").exists():
        pages[f"{PRINTED}.md"] = _page("On an H100", printed, _printed(printed))
    others = [page.name for page in other_pages(results)]
    pages[INDEX] = _index(results, sorted([*pages, *others]))
    return pages


def other_pages(results: Path) -> list[Path]:
    """The pages that a benchmark writes itself, beside its lines in a `.json` file."""
    own = [page for page in results.glob("*.md") if page.with_suffix(".json").exists()]
    return sorted(page for page in own if page.stem not in (PRINTED, COST))


def block_text(name: str, results: Path) -> str | None:
    """What stands in a document between the marks of `name`; None if the name has no meaning.

    Args:
        name: one of `block_names`. For a study it gives the short tables, with a link to its page.
        results: the folder of the lines.
    """
    if name == OPEN:
        return open_table(results, links="results/")
    if name in (ANSWER, GAIN):
        return _answer(results, in_one=name == GAIN)
    if name == PRINTED:
        return "\n\n".join(_printed(results / f"{PRINTED}.json"))
    if name == COST:
        return _of_page(name, [cost_table(results / f"{COST}.jsonl")], results)
    if name == ROBUSTNESS:
        file = results / lines_file(ROBUSTNESS_OF)
        parts = [robustness_table(lines)] if (lines := read_lines(file)) else []
        return _of_page(name, parts, results, page=file.stem)
    lines = read_lines(results / f"{name}.jsonl")
    if name not in STUDIES and not lines:
        return None
    if (queued := QUEUED.get(name)) and (parts := _of_block(queued, lines, results)):
        return _of_page(name, parts, results)
    parts = []
    for group in groups(lines):
        parts += [paragraph(f"{caption(group)}: {data_and_recipe(group)}."), short_table(group)]
    return _of_page(name, parts, results)


def block_names(results: Path) -> list[str]:
    """The names that blocks of a document can have."""
    measured = [file.stem for file in study_files(results)]
    return list(dict.fromkeys([*measured, *STUDIES, ROBUSTNESS, COST, PRINTED, OPEN, ANSWER, GAIN]))


def draw_plots(results: Path) -> list[Path]:
    """Writes a plot for every group of lines that compares methods; their paths."""
    plots = []
    for file in study_files(results):
        queued = QUEUED.get(file.stem)
        if queued and why_it_waits(queued, results):
            continue
        for group in groups(read_lines(file)):
            if _is_comparison(group):
                plots.append(results / plot_name(file.stem, group[0]))
                plot_study(plots[-1], group)
    return plots


def study_files(results: Path) -> list[Path]:
    """The files whose lines are runs."""
    files = sorted(results.glob("*.jsonl"))
    others = {COST, PLAN_FILE.stem}
    return [file for file in files if LINES_SUFFIX not in file.stem and file.stem not in others]


def _study_page(file: Path) -> str:
    study, queued, lines = STUDIES.get(file.stem), QUEUED.get(file.stem), read_lines(file)
    known = study or queued
    parts = [f"*{known.question}*"] if known else []
    if queued:
        if waits := why_it_waits(queued, file.parent):
            parts += [paragraph(waits), *(_deviations(queued, lines) if queued.roles else [])]
            return _page(file.stem, file, [*parts, *_where_from(file.stem, lines)])
        parts += _of_queue(queued, lines)
    for group in groups(lines):
        parts += [f"## {caption(group)}", paragraph(f"{data_and_recipe(group)}.")]
        parts.append(study_table(group))
        if (differences := differences_table(group)) is not None:
            parts += [_DIFFERENCES, differences]
        if queued and queued.reference and (verdicts := filter_table(group, queued.reference)):
            parts.append(verdicts)
        if study and study.chooses:
            parts.append(best_validated(group))
        if _is_comparison(group):
            parts.append(f"![top-1 of every run]({plot_name(file.stem, group[0])})")
        parts += _where_from(file.stem, group)
    return _page(file.stem, file, [*parts, *(missing_sentence(study, lines) if study else [])])


def _of_queue(queued: QueueStudy, lines: Sequence[Line]) -> list[str]:
    """What a page of the queue begins with: the choice of a filter, or the answers of the plan."""
    students = by_student(lines)
    chosen = _chosen(queued, students)
    parts = ["## The choice", *chosen] if chosen else []
    if queued.roles:
        for name, own in students.items():
            parts += [f"## The answers for {name}", answers_table(own, ASKED, queued.roles)]
            parts.append(weights_table(own))
        parts += ["## The number of seeds", *_deviations(queued, lines)]
    return parts


def _of_block(queued: QueueStudy, lines: Sequence[Line], results: Path) -> list[str]:
    """What a block says of a study of the queue instead of its short tables; nothing for most."""
    if waits := why_it_waits(queued, results):
        return [paragraph(waits)]
    if queued.roles:
        return confirmed_parts(lines, ASKED, queued.roles)
    return _chosen(queued, by_student(lines))


def _deviations(queued: QueueStudy, lines: Sequence[Line]) -> list[str]:
    """The deviations between seeds of a study that confirms, and how many seeds they ask for."""
    asked = wanted_seeds(queued, lines)
    table = deviations_table(by_student(lines), ASKED, queued.roles)
    return (
        [table, f"By the plan's rule, its first pairs ask for {asked} seeds."] if asked else [table]
    )


def _answer(results: Path, *, in_one: bool) -> str:
    """What the confirming study says in one sentence or three, or that runs are missing."""
    (study,) = (each for each in QUEUED.values() if each.roles)
    if waits := why_it_waits(study, results):
        return paragraph(f"{study.question} {waits}")
    students = by_student(read_lines(results / f"{study.name}.jsonl"))
    if in_one:
        return paragraph(gain_in_a_sentence(students, study.roles))
    return paragraph(answer_in_sentences(students, ASKED, study.roles))


def _chosen(queued: QueueStudy, students: Mapping[str, Sequence[Line]]) -> list[str]:
    """How much a filter has tried, and its choice; nothing while it has none."""
    choice = choice_table(students, queued.reference) if queued.reference else None
    if choice is None:
        return []
    lines = [line for own in students.values() for line in own]
    variants = {line["method"] for line in lines} - {BASELINE}
    tried = f"{len(variants)} variants were tried, in {len(lines)} runs with those of {BASELINE}."
    return [paragraph(f"{tried} {_CHOICE}"), choice]


def _page(title: str, raw: Path, parts: Sequence[str]) -> str:
    made = f"Made by `make results` of [{raw.name}]({raw.name})."
    return "\n\n".join([f"# {title}", made, *parts]) + "\n"


def _index(results: Path, pages: Sequence[str]) -> str:
    listed = "\n".join(f"- [{page.removesuffix('.md')}]({page})" for page in pages)
    parts = ["# Results, page by page", "Made by `make results` of the raw lines in this folder."]
    parts += [listed, "## How to read the tables", _LEGEND, "## What is measured of the plan"]
    return "\n\n".join([*parts, open_table(results, links="")]) + "\n"


def _of_page(name: str, parts: Sequence[str], results: Path, *, page: str | None = None) -> str:
    """A block of RESULTS.md with the link to its page; or the command, if nothing is measured."""
    page = page or name
    if not parts or not (results / f"{page}.jsonl").exists():
        return f"Not measured yet: `{evidence_command(name)}`."
    link = f"All figures, commands and hardware: [results/{page}.md](results/{page}.md)"
    return "\n\n".join([*parts, link])


def _robustness(file: Path) -> list[str]:
    lines = read_lines(file)
    study = file.stem.removesuffix(LINES_SUFFIX)
    queued = QUEUED.get(study)
    if queued and (waits := why_it_waits(queued, file.parent)):
        return [paragraph(waits), *_where_from(file.stem, lines)]
    about = f"Runs of [{study}]({study}.md), {recipe_and_settings(lines)}; top-1 in %:"
    return [paragraph(about), robustness_table(lines), *_where_from(file.stem, lines)]


def _where_from(study: str, lines: Sequence[Line]) -> list[str]:
    """The commands of the lines, and the machines that they ran on."""
    machines = f"Hardware: {hardware_of(lines)}  \nVersions: {versions_of(lines)}"
    return [_shell(commands_of(study, lines)), machines]


def _is_comparison(group: Sequence[Line]) -> bool:
    return len(rows_of(group)) > 1


class _Printed(msgspec.Struct):
    title: str
    command: str
    device: str
    note: str
    printed: list[str]


def _printed(path: Path) -> list[str]:
    """What commands printed, each with what it was and where."""
    entries = msgspec.json.decode(path.read_bytes(), type=list[_Printed])
    parts = []
    for entry in entries:
        parts.append(paragraph(f"**{entry.title}** ({entry.note})"))
        if entry.command:
            parts.append(_shell(entry.command.split("; ")))
        parts.append("\n".join(["```text", *entry.printed, "```"]))
    devices = "; ".join(dict.fromkeys(entry.device for entry in entries))
    return [*parts, paragraph(f"Hardware and versions: {devices}")]


def _shell(commands: Sequence[str]) -> str:
    return "\n".join(["```console", *commands, "```"])
