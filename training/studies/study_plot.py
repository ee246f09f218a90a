"""The plot of a study: every run a point, every method a line."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from runtime.base.files import atomic_path
from training.records.journal import counted
from training.studies.lines import Line
from training.studies.rows import BASELINE
from training.studies.tables import rows_of

_INCHES_PER_ROW = 0.28


def plot_name(study: str, line: Line) -> str:
    """The plot's file for the lines that share the line's data, student and epochs."""
    student = f"{line['arch']}-x{line['width']:g}-{line['image_size']}px"
    return f"{study}-{line['data']}-{student}-{line['epochs']}-epochs.png"


def plot_study(path: Path, lines: Sequence[Line]) -> None:
    """Test accuracy of every run as a point, the mean of each method as a stroke.

    Methods stand below one another, so that long names of many of them can be read.
    """
    from training.records.plots import figure_of  # imports torch, which takes seconds

    rows = rows_of(lines)
    figure, (axes,) = figure_of(figsize=(8, 1.4 + _INCHES_PER_ROW * len(rows)), ncols=1)
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
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
