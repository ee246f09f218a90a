"""Tables of a study: means and standard deviations over seeds, gains paired by seed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from training.studies.evidence_plan import PLANNED_METHODS
from training.studies.lines import Line, changed_settings, whole_recipe
from training.studies.rows import BASELINE, DISTILLATION_KEYS, METHODS, idle_keys, method_of

Figure = Callable[[Line], float]


class Row(NamedTuple):
    """The lines of one method and one recipe."""

    name: str
    method: str
    lines: list[Line]

    @property
    def seeds(self) -> str:
        return ", ".join(str(line["seed"]) for line in self.lines)


def by_student(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The lines of each student, as "mobilenetv2 x1", with the data where there are several.

    A mean over two data sets, or over two sizes of their images, would be a figure of neither.
    """
    several = len({(line["data"], line["image_size"]) for line in lines}) > 1
    students: dict[str, list[Line]] = {}
    for line in lines:
        name = f"{line['arch']} x{line['width']:g}"
        if several:
            name += f" on {line['data']} at {line['image_size']} px"
        students.setdefault(name, []).append(line)
    return students


def method_name(line: Line) -> str:
    """The line's method; that of a run outside of a study follows from its terms and recipe."""
    if "method" in line:
        return str(line["method"])
    return method_of(line["terms"], whole_recipe(line), data=line["data"]).name


def shared_settings(lines: Sequence[Line]) -> dict[str, Any]:
    """What all lines have otherwise than the recipe of their data; a table says it once, above.

    But for lines whose method sets the key by itself, and without keys that none of them reads.
    """
    settings = [_settings(line) for line in lines]
    keys = dict.fromkeys(key for own in settings for key in own)
    for key in set.intersection(*map(_idle, lines)):
        keys.pop(key, None)
    shared = {}
    for key in keys:
        values = [
            own.get(key, ...)
            for own, line in zip(settings, lines, strict=True)
            if key not in _changes(method_name(line))
        ]
        if all(value == values[0] for value in values):
            shared[key] = values[0]
    return shared


def rows_of(lines: Sequence[Line], *, shared: Mapping[str, Any] | None = None) -> list[Row]:
    """Rows by method in the order of their first lines, seeds ascending.

    Two recipes of one method are two rows, unless they differ only in what the method does not
    read. A row is named by its method and what it has otherwise than the data's recipe, apart from
    what all rows share (default: that of `lines`); the row with nothing to add comes first.
    """
    shared = shared_settings(lines) if shared is None else shared
    found: list[Row] = []
    for line in lines:
        method, recipe = method_name(line), _read_recipe(line)
        same = (row for row in found if row.method == method)
        own = next((row for row in same if _read_recipe(row.lines[0]) == recipe), None)
        if own is None:
            own = Row(_row_name(line, shared), method, [])
            found.append(own)
        own.lines.append(line)
    methods = list(dict.fromkeys(row.method for row in found))
    found.sort(key=lambda row: (methods.index(row.method), row.name != row.method))
    for row in found:
        row.lines.sort(key=lambda line: int(line["seed"]))
    return found


def study_table(lines: Sequence[Line]) -> str:
    """A Markdown table with a row for each method; validation top-1 when all lines have it.

    A gain is the mean of the differences between runs of one seed.
    """
    rows = rows_of(lines)
    figures = {"validation %": "validation_top1", "top-5 %": "top5", "ECE %": "ece"}
    if any(line.get("validation_top1") is None for line in lines):
        del figures["validation %"]
    head = ["method", "seeds", "top-1 %", "over CE", *figures]
    head += ["parameters", "more in training", "s"]
    table = [cells(head), "|" + "---|" * len(head)]
    for row in rows:
        baseline = baseline_of(row, rows)
        own = [
            row.name,
            row.seeds,
            mean_and_deviation(row.lines, _percent("top1")),
            gain(row, baseline, _percent("top1")),
            *(mean_and_deviation(row.lines, _percent(key)) for key in figures.values()),
            _parameters(row, baseline),
            f"{row.lines[0]['auxiliary_params']:,}",
            f"{np.mean([line['seconds'] for line in row.lines]):.0f}",
        ]
        table.append(cells(own))
    return "\n".join(table)


def baseline_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """The baseline of the row's recipe; None if there is none, and for a baseline itself.

    It may differ in what the row's method changes, and in what cross-entropy does not read.
    """
    if row.method == BASELINE:
        return None
    free = DISTILLATION_KEYS | _changes(row.method).keys()
    for other in rows:
        if other.method == BASELINE and not _differing(other.lines[0], row.lines[0]) - free:
            return other
    return None


def gain(row: Row, baseline: Row | None, figure: Figure) -> str:
    """Mean ± standard deviation of the differences of runs of one seed, "" if there are none."""
    reference = {line["seed"]: figure(line) for line in (baseline.lines if baseline else [])}
    gains = [
        figure(line) - reference[line["seed"]] for line in row.lines if line["seed"] in reference
    ]
    if not gains:
        return ""
    mean = f"{round(float(np.mean(gains)), 2) + 0.0:+.2f}"  # never -0.00
    return mean if len(gains) == 1 else f"{mean} ± {np.std(gains, ddof=1):.2f}"


def mean_and_deviation(lines: Sequence[Line], figure: Figure) -> str:
    """Mean ± standard deviation (of a sample) over the lines; of one line the figure alone."""
    values = [figure(line) for line in lines]
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


def cells(words: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(words)} |"


def _percent(key: str) -> Figure:
    return lambda line: 100 * float(line[key])


def _parameters(row: Row, baseline: Row | None) -> str:
    """Those of the deployed student, and in brackets what they are over the baseline's."""
    params = row.lines[0]["params"]
    if baseline is None:
        return f"{params:,}"
    return f"{params:,} ({params - baseline.lines[0]['params']:+,})"


def best_validated(lines: Sequence[Line]) -> str:
    """A sentence naming the method to choose: it has the highest mean of validation top-1.

    With its lead over the next, paired by seed: one within its deviation decides nothing.
    """
    figure = _percent("validation_top1")

    def mean(row: Row) -> float:
        return float(np.mean([figure(line) for line in row.lines]))

    best, *others = sorted(rows_of(lines), key=mean, reverse=True)
    words = f"Highest validation top-1: {best.name} ({mean(best):.2f} %)"
    if others:
        lead = gain(best, others[0], figure) or "no seed in common"
        words += f"; over the next, {others[0].name}: {lead}"
    return f"{words}."


def _changes(method: str) -> Mapping[str, object]:
    """What a method's name says of the recipe by itself."""
    known = METHODS.get(method) or PLANNED_METHODS.get(method)
    return known.changes if known else {}


def _settings(line: Line) -> dict[str, Any]:
    return changed_settings(line, apart_from=_changes(method_name(line)))


def _idle(line: Line) -> set[str]:
    known = METHODS.get(method_name(line))
    return idle_keys(known.terms if known else line["terms"], whole_recipe(line))


def _read_recipe(line: Line) -> dict[str, Any]:
    """The recipe as far as it changes anything in this run."""
    idle = _idle(line)
    return {key: value for key, value in whole_recipe(line).items() if key not in idle}


def _row_name(line: Line, shared: Mapping[str, Any]) -> str:
    without = _idle(line) | shared.keys()
    words = [f"{key}={value}" for key, value in _settings(line).items() if key not in without]
    return f"{method_name(line)} ({', '.join(words)})" if words else method_name(line)


def _differing(first: Line, second: Line) -> set[str]:
    one, other = whole_recipe(first), whole_recipe(second)
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
