"""The table of robustness: means over severities, over seeds with standard deviations."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from training.studies.lines import Line
from training.studies.tables import (
    Figure,
    baseline_of,
    by_student,
    cells,
    gain,
    mean_and_deviation,
    rows_of,
    shared_settings,
)

LINES_SUFFIX = "-robustness"  # of a file of lines, after the study's name


def robustness_table(lines: Sequence[Line]) -> str:
    """Top-1 under each corruption, means over severities 1 to 5; `all` is the mean of these.

    The gain over CE is that of `all`, paired by seed.
    """
    corruptions: dict[str, Figure] = {
        name: partial(_of, figure="top1", name=name) for name in lines[0]["corrupted"]
    }
    top1: dict[str, Figure] = {"clean": _clean_top1, **corruptions, "all": _all_top1}
    head = ["student", "method", "seeds", *top1, "over CE", "ECE clean", "ECE all"]
    table = [cells(head), "|" + "---|" * len(head)]
    shared = shared_settings(lines)
    for student, own in by_student(lines).items():
        rows = rows_of(own, shared=shared)
        table += [
            cells(
                [
                    student,
                    row.name,
                    row.seeds,
                    *(mean_and_deviation(row.lines, figure) for figure in top1.values()),
                    gain(row, baseline_of(row, rows), _all_top1),
                    mean_and_deviation(row.lines, _clean_ece),
                    mean_and_deviation(row.lines, _all_ece),
                ]
            )
            for row in rows
        ]
    return "\n".join(table)


def _clean_top1(line: Line) -> float:
    return 100 * float(line["clean"]["top1"])


def _clean_ece(line: Line) -> float:
    return 100 * float(line["clean"]["ece"])


def _all_top1(line: Line) -> float:
    return float(np.mean([_of(line, figure="top1", name=name) for name in line["corrupted"]]))


def _all_ece(line: Line) -> float:
    return float(np.mean([_of(line, figure="ece", name=name) for name in line["corrupted"]]))


def _of(line: Line, *, figure: str, name: str) -> float:
    """Mean of a figure in per cent over the severities of a corruption."""
    return 100 * float(np.mean([each[figure] for each in line["corrupted"][name]]))
