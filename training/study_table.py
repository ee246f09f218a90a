"""Tables of a study: means and standard deviations over seeds, gains paired by seed."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from training.methods import method_of
from training.study_results import Line, whole_recipe

BASELINE = "ce"
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


def rows_of(lines: Sequence[Line]) -> list[Row]:
    """Rows in the order of their first lines, seeds ascending.

    Two recipes of one method are two rows.
    """
    found: list[Row] = []
    for line in lines:
        method = method_name(line)
        same = [row for row in found if row.method == method]
        own = [row for row in same if not _differences(row.lines[0], line)]
        if own:
            own[0].lines.append(line)
            continue
        name = method
        if same:
            recipe, differing = whole_recipe(line), _differences(same[0].lines[0], line)
            name += f" ({', '.join(f'{key}={recipe[key]}' for key in differing)})"
        found.append(Row(name, method, [line]))
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
    """The baseline whose recipe is nearest to the row's; None for a baseline itself."""
    baselines = [other for other in rows if other.method == BASELINE]
    if row.method == BASELINE or not baselines:
        return None
    return min(baselines, key=lambda other: len(_differences(other.lines[0], row.lines[0])))


def gain(row: Row, baseline: Row | None, figure: Figure) -> str:
    """Mean difference of the runs whose seeds both rows have, "" if there are none."""
    reference = {line["seed"]: figure(line) for line in (baseline.lines if baseline else [])}
    gains = [
        figure(line) - reference[line["seed"]] for line in row.lines if line["seed"] in reference
    ]
    return f"{round(float(np.mean(gains)), 2) + 0.0:+.2f}" if gains else ""  # never -0.00


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


def _differences(first: Line, second: Line) -> list[str]:
    one, other = whole_recipe(first), whole_recipe(second)
    return [key for key in one if one[key] != other.get(key)]


def best_validated(lines: Sequence[Line]) -> str:
    """A sentence naming the method to choose: it has the highest mean of validation top-1."""
    rows = rows_of(lines)
    means = [np.mean([line["validation_top1"] for line in row.lines]) for row in rows]
    best = int(np.argmax(means))
    return f"Highest validation top-1: {rows[best].name} ({100 * means[best]:.2f} %)."
