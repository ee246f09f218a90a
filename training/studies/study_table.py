"""The table and the plot of a study: means and deviations over seeds, gains paired by seed."""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from training.records.journal import counted
from training.records.plots import figure_of, save_figure
from training.studies.result_lines import Line
from training.studies.study_methods import BASELINE
from training.studies.table_rows import Row, baseline_of, paired_lines, rows_of

Figure = Callable[[Line], float]
# Of the probabilities; lines of older versions do not have them.
_CONFIDENCE = {"validation NLL": "validation_nll", "NLL": "nll", "AUROC": "auroc"}
_INCHES_PER_ROW = 0.28
_HEIGHT_INCHES = 1.4


def study_table(lines: Sequence[Line]) -> str:
    """A Markdown table of the lines of one student, with a row for each method.

    It has validation top-1, NLL and AUROC if all lines have them. A gain is the mean of the
    differences between runs of one seed.
    """
    rows = rows_of(lines)
    others = {
        name: key
        for name, key in _CONFIDENCE.items()
        if all(line.get(key) is not None for line in lines)
    }
    figures = {"validation %": "validation_top1", "top-5 %": "top5", "ECE %": "ece"}
    if any(line.get("validation_top1") is None for line in lines):
        del figures["validation %"]
    if all("rare_recall" in line for line in lines):
        figures = {"rare recall %": "rare_recall", **figures}
    names = ["method", "seeds", "top-1 %", "over CE", *figures, *others]
    table = table_head([*names, "parameters", "more in training", "s"])
    for row in rows:
        baseline = baseline_of(row, rows)
        own = [
            row.name,
            row.seeds,
            mean_and_deviation(row.lines, _percent("top1")),
            gain(row, baseline, _percent("top1")),
            *(mean_and_deviation(row.lines, _percent(key)) for key in figures.values()),
            *(mean_and_deviation(row.lines, _plain(key), digits=3) for key in others.values()),
            _parameters(row, baseline),
            f"{row.lines[0]['auxiliary_params']:,}",
            f"{np.mean([line['seconds'] for line in row.lines]):.0f}",
        ]
        table.append(table_line(own))
    return "\n".join(table)


def short_table(lines: Sequence[Line]) -> str:
    """`study_table` with the figures that decide: top-1, the gain in it, and ECE."""
    rows = rows_of(lines)
    table = table_head(["method", "seeds", "top-1 %", "over CE", "ECE %"])
    for row in rows:
        own = [
            row.name,
            row.seeds,
            mean_and_deviation(row.lines, _percent("top1")),
            gain(row, baseline_of(row, rows), _percent("top1")),
            mean_and_deviation(row.lines, _percent("ece")),
        ]
        table.append(table_line(own))
    return "\n".join(table)


def best_validated(lines: Sequence[Line]) -> str:
    """A sentence that names the method with the highest mean of validation top-1.

    It also tells the lead over the next method, paired by seed. A lead that is smaller than its
    deviation decides nothing.
    """
    figure = _percent("validation_top1")

    def mean(row: Row) -> float:
        return float(np.mean([figure(line) for line in row.lines]))

    best, *others = sorted(rows_of(lines), key=mean, reverse=True)
    sentence = f"Highest validation top-1: {best.name} ({mean(best):.2f} %)"
    if others:
        lead = gain(best, others[0], figure) or "no seed in common"
        sentence += f"; over the next, {others[0].name}: {lead}"
    return f"{sentence}."


def gain(row: Row, baseline: Row | None, figure: Figure) -> str:
    """Mean ± standard deviation of the differences between runs of one seed; "" without any."""
    pairs = paired_lines(row, baseline) if baseline else []
    gains = [figure(line) - figure(other) for line, other in pairs]
    if not gains:
        return ""
    mean = f"{round(float(np.mean(gains)), 2) + 0.0:+.2f}"  # never -0.00
    return mean if len(gains) == 1 else f"{mean} ± {np.std(gains, ddof=1):.2f}"


def mean_and_deviation(lines: Sequence[Line], figure: Figure, *, digits: int = 2) -> str:
    """Mean ± standard deviation (of a sample) over the lines; for one line, its figure alone."""
    values = [figure(line) for line in lines]
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def table_head(names: Sequence[str]) -> list[str]:
    """The first two lines of a Markdown table."""
    return [table_line(names), "|" + "---|" * len(names)]


def table_line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def paragraph(text: str) -> str:
    """The text as a paragraph of Markdown."""
    return textwrap.fill(text, width=120, break_long_words=False, break_on_hyphens=False)


def plot_name(study: str, line: Line) -> str:
    """The file name of the plot of all lines with this line's data, student and epochs."""
    student = f"{line['arch']}-x{line['width']:g}-{line['image_size']}px"
    return f"{study}-{line['data']}-{student}-{line['epochs']}-epochs.png"


def plot_study(path: Path, lines: Sequence[Line]) -> None:
    """Writes a PNG: the test accuracy of every run as a point, the mean of each method as a stroke.

    Methods stand below one another, so that there is room for long names.
    """
    rows = rows_of(lines)
    figure, (axes,) = figure_of(figsize=(8, _HEIGHT_INCHES + _INCHES_PER_ROW * len(rows)), ncols=1)
    for position, row in enumerate(rows):
        values = [100 * line["top1"] for line in row.lines]
        axes.plot(values, [position] * len(values), "o", color="tab:blue", alpha=0.6)
        mean = float(np.mean(values))
        axes.vlines(mean, position - 0.35, position + 0.35, color="black")
        if row.method == BASELINE:
            axes.axvline(mean, color="tab:gray", linestyle=":", zorder=0)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    first = lines[0]
    epochs = counted(first["epochs"], "epoch")
    figure.suptitle(f"{first['arch']} on {first['data']}, {epochs}")  # wider than the axes
    axes.set(xlabel="test top-1 (%)")
    axes.grid(axis="x", alpha=0.3)
    save_figure(figure, path)


def _plain(key: str) -> Figure:
    return lambda line: float(line[key])


def _percent(key: str) -> Figure:
    return lambda line: 100 * float(line[key])


def _parameters(row: Row, baseline: Row | None) -> str:
    """Parameters of the deployed student; in brackets, how many more than the baseline's."""
    params = row.lines[0]["params"]
    if baseline is None:
        return f"{params:,}"
    return f"{params:,} ({params - baseline.lines[0]['params']:+,})"
