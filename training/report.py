"""Writes RESULTS.md's tables and plots anew from the raw lines: `python training/report.py`.

What stands between `<!-- results:NAME -->` and `<!-- /results -->` is made of the lines in
`results/` alone; NAME is a study of the plan, `robustness`, `cost`, `h100` for what was printed
there, or `others` for other files.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from runtime.base.command import CommandParser, run_command
from runtime.base.errors import UserError
from runtime.base.files import write_atomic
from training.config.recipe import default_recipe
from training.records.journal import counted
from training.studies.costs import cost_table
from training.studies.evidence_plan import (
    COST,
    ROBUSTNESS,
    ROBUSTNESS_OF,
    SCALES,
    STUDIES,
    PlannedStudy,
)
from training.studies.evidence_runs import planned_runs
from training.studies.lines import RESULTS, Line, read_lines
from training.studies.provenance import provenance
from training.studies.robustness_table import LINES_SUFFIX, robustness_table
from training.studies.study_plot import plot_name, plot_study
from training.studies.tables import (
    best_validated,
    method_name,
    rows_of,
    shared_settings,
    study_table,
)

REPORT = Path("RESULTS.md")
_OTHERS = "others"
_PRINTED = "h100"  # what commands printed on that GPU, which is no lines of runs
_BLOCK = re.compile(r"(<!-- results:([\w.-]+) -->\n).*?(<!-- /results -->)", re.DOTALL)
_GROUP = ("data", "arch", "width", "image_size", "epochs")


def main(arguments: Sequence[str]) -> int:
    """Writes tables and plots."""
    CommandParser(prog="python training/report.py", description=__doc__).parse_args(arguments)
    try:
        text = REPORT.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{REPORT} cannot be read ({error.strerror}); run this beside it"
        ) from error
    write_atomic(REPORT, rendered(text, RESULTS))
    plots = draw_plots(RESULTS)
    print(f"tables  {REPORT}\nplots   {', '.join(map(str, plots)) or 'none'}")  # noqa: T201
    return 0


def rendered(text: str, results: Path) -> str:
    """`text` with every block between marks made anew of the lines in `results`."""
    marked = [name for _, name, _ in _BLOCK.findall(text)]

    def block(match: re.Match[str]) -> str:
        return f"{match[1]}{_section(match[2], results, marked)}\n{match[3]}"

    return _BLOCK.sub(block, text)


def draw_plots(results: Path) -> list[Path]:
    """A plot for every group of lines that compares methods."""
    plots = []
    for file in _study_files(results):
        for group in _groups(read_lines(file)):
            if _is_comparison(group):
                plots.append(results / plot_name(file.stem, group[0]))
                plot_study(plots[-1], group)
    return plots


def _study_files(results: Path) -> list[Path]:
    """The files whose lines are runs."""
    files = sorted(results.glob("*.jsonl"))
    return [file for file in files if LINES_SUFFIX not in file.stem and file.stem != COST]


def _section(name: str, results: Path, marked: Sequence[str]) -> str:
    if name in STUDIES:
        study = STUDIES[name]
        lines = read_lines(results / study.lines_file)
        tables = _tables(name, lines, chooses=study.chooses)
        parts = [f"*{study.question}*", *tables, *_missing(study, lines)]
    elif name == ROBUSTNESS:
        parts = _robustness(results)
    elif name == COST:
        parts = _cost(results)
    elif name == _PRINTED:
        parts = _printed(results / f"{_PRINTED}.json")
    elif name == _OTHERS:
        files = [file for file in _study_files(results) if file.stem not in marked]
        parts = []
        for file in files:
            parts += [f"### {file.stem}", *_tables(file.stem, read_lines(file))]
    else:
        raise UserError(
            f"{REPORT}: the mark results:{name} names nothing; "
            f"expected one of {', '.join((*STUDIES, ROBUSTNESS, COST, _PRINTED, _OTHERS))}"
        )
    return "\n\n".join(parts)


def _tables(study: str, lines: Sequence[Line], *, chooses: bool = False) -> list[str]:
    parts = []
    for group in _groups(lines):
        first = group[0]
        images = f"{first['train_images']:,} images trained on, "
        images += f"{first['validation_images']:,} held out, {first['test_images']:,} tested on"
        parts += [
            f"**{first['arch']}** x{first['width']:g} at {first['image_size']} px, "
            f"{first['data']}, {counted(first['epochs'], 'epoch')}; {images}; "
            f"{_recipe_words(group, apart_from=('epochs',))}.",
            study_table(group),
            *([best_validated(group)] if chooses else []),
            provenance(study, group),
        ]
        if _is_comparison(group):
            name = plot_name(study, first)
            parts.append(f"![top-1 of every run]({RESULTS / name})")
    return parts


def _recipe_words(lines: Sequence[Line], *, apart_from: Sequence[str] = ()) -> str:
    """The recipe that the lines' rows are named against."""
    recipes = " and ".join(dict.fromkeys(f"`{default_recipe(line['data'])}`" for line in lines))
    shared = shared_settings(lines).items()
    words = ", ".join(f"{key}={value}" for key, value in shared if key not in apart_from)
    return f"recipe {recipes} with {words}" if words else f"recipe {recipes}"


def _groups(lines: Sequence[Line]) -> list[list[Line]]:
    """Lines that differ in method, seed and recipe alone, but for the epochs."""
    groups: dict[tuple[object, ...], list[Line]] = {}
    for line in lines:
        groups.setdefault(tuple(line[key] for key in _GROUP), []).append(line)
    return list(groups.values())


def _is_comparison(group: Sequence[Line]) -> bool:
    return len(rows_of(group)) > 1


def _missing(study: PlannedStudy, lines: Sequence[Line]) -> list[str]:
    """The planned rows that lack a seed, and the command that measures them."""
    scale = SCALES["full"]
    measured = {
        (line["arch"], method_name(line), line["seed"])
        for line in lines
        if line["data"] == scale.data and line["epochs"] == scale.epochs(study)
    }
    runs = planned_runs(study, scale)
    missing = [run for run in runs if (run.arch, run.method.name, run.seed) not in measured]
    if not missing:
        return []
    students: dict[str, list[str]] = {}  # by the methods that they lack
    for arch in dict.fromkeys(run.arch for run in missing):
        methods = dict.fromkeys(run.method.name for run in missing if run.arch == arch)
        students.setdefault(", ".join(methods), []).append(arch)
    named = "; ".join(f"{' and '.join(archs)}: {names}" for names, archs in students.items())
    return [
        f"Not measured yet: {len(missing)} of {len(runs)} runs of "
        f"{counted(runs[0].recipe.epochs, 'epoch')}, "
        f"seeds 0 to {study.seeds - 1} ({named}). They will be by "
        f"`python training/evidence.py --only {study.name}`."
    ]


def _robustness(results: Path) -> list[str]:
    parts = []
    for file in sorted(results.glob(f"*{LINES_SUFFIX}.jsonl")):
        lines = read_lines(file)
        parts += [
            f"Runs of `{file.stem.removesuffix(LINES_SUFFIX)}`, {_recipe_words(lines)}; "
            "top-1 in %:",
            robustness_table(lines),
            provenance(file.stem, lines),
        ]
    if not (results / f"{ROBUSTNESS_OF}{LINES_SUFFIX}.jsonl").exists():
        parts.append(
            f"Not measured yet for the runs of `{ROBUSTNESS_OF}`. They will be by "
            f"`python training/evidence.py --only {ROBUSTNESS}`."
        )
    return parts


def _cost(results: Path) -> list[str]:
    path = results / f"{COST}.jsonl"
    command = f"`python training/evidence.py --only {COST}`"
    if not path.exists():
        return [f"Not measured yet. It will be by {command}."]
    return [cost_table(path), f"Command: {command}  \nLines: [{path.name}]({RESULTS / path.name})"]


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
        parts += [
            f"**{entry.title}** ({entry.note})",
            "\n".join(["```text", *entry.printed, "```"]),
        ]
        if entry.command:
            parts.append(f"Command: `{entry.command}`")
    devices = "; ".join(dict.fromkeys(entry.device for entry in entries))
    raw = f"[{path.name}]({RESULTS / path.name})"
    return [*parts, f"Hardware and versions: {devices}  \nRaw: {raw}"]


def command() -> NoReturn:
    run_command(main, extra="train")


if __name__ == "__main__":
    command()
