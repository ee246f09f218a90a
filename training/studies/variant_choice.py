"""Which variant the runs of a filter choose: the verdict on each, and the choice of what is left.

docs/evidence.md states both rules. They read held out images alone, never test images.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from training.studies.result_lines import Line
from training.studies.study_table import table_head, table_line
from training.studies.table_rows import Row, paired_lines, rows_of
from training.studies.variants import CONTROLS

FOLDS = 5
_FILTER_SEEDS = 2  # a filter judges by these; the other folds are for the choice
_WORSE_NLL, _WORSE_TOP1 = 0.01, 0.5  # what the filter allows, in nats and in points
_DSR = "+dsr-"  # between the name of a DRG and the name of a shape


class Verdict(NamedTuple):
    """What the filter says of one variant.

    Attributes:
        name: the row of the variant.
        base: the row that it is compared with.
        seeds: of the compared pairs of runs.
        nll: the variant's validation NLL less the base's, seed by seed.
        top1: the mean difference of validation top-1, in points.
        word: "in", "out", or "open, one seed".
    """

    name: str
    base: str
    seeds: list[int]
    nll: list[float]
    top1: float
    word: str


class _Candidate(NamedTuple):
    """Figures of a DRG with DSR, fold by fold, in the mean of the students."""

    name: str
    top1: list[float]  # in percent
    nll: list[float]
    over_drg: list[float]  # points, less DRG with the same heads, fold by fold of each student


def verdicts(lines: Sequence[Line], reference: str) -> list[Verdict]:
    """The verdict on every variant: does it do harm to DRG with the same heads?

    Out is a variant whose validation NLL is worse than that by more than 0.01 with every seed, or
    whose validation top-1 is worse by more than 0.5 points in the mean (docs/evidence.md).

    Args:
        lines: of one student on one data set.
        reference: the row that others are compared with. "drg-multi-a1+dsr-fade" is compared with
            "drg-multi-a1" if there is such a row.
    """
    by_name = {row.name: row for row in rows_of(lines)}
    found = []
    for row in by_name.values():
        base = _base(row.name, by_name, reference)
        if base is None or row.name == base:
            continue
        pairs = paired_lines(row, by_name[base])[:_FILTER_SEEDS]
        if pairs:
            nll = [one["validation_nll"] - other["validation_nll"] for one, other in pairs]
            top1 = float(np.mean([_top1(one) - _top1(other) for one, other in pairs]))
            harm = min(nll) > _WORSE_NLL or top1 < -_WORSE_TOP1
            word = "open, one seed" if len(pairs) < _FILTER_SEEDS else "out" if harm else "in"
            seeds = [int(one["seed"]) for one, _ in pairs]
            found.append(Verdict(row.name, base, seeds, nll, top1, word))
    return found


def filter_table(lines: Sequence[Line], reference: str) -> str | None:
    """`verdicts` as a Markdown table; None without any."""
    names = ["method", "less", "seeds", "validation NLL", "validation top-1, points", "verdict"]
    table = table_head(names)
    found = verdicts(lines, reference)
    for each in found:
        seeds = ", ".join(map(str, each.seeds))
        nll = ", ".join(f"{value:+.3f}" for value in each.nll)
        table.append(table_line([each.name, each.base, seeds, nll, f"{each.top1:+.2f}", each.word]))
    return "\n".join(table) if found else None


def choice_table(students: Mapping[str, Sequence[Line]], reference: str) -> str | None:
    """The choice among the variants of DRG with DSR that no student's filter puts out.

    A variant takes part when every student has all FOLDS folds of it. The one with the most mean
    validation top-1 leads. Of those that are behind it by no more than the standard error of the
    difference between folds, the one with the lowest validation NLL is chosen. This is the rule of
    one standard error (Breiman et al. 1984), with pairs. Both figures are means over the students.

    Args:
        students: the lines of each student.
        reference: as for `verdicts`.

    Returns:
        A Markdown table; None while no variant has all folds.
    """
    found = _candidates(students, reference)
    if not found:
        return None
    found.sort(key=lambda each: -float(np.mean(each.top1)))
    behind = [np.subtract(found[0].top1, each.top1) for each in found]
    errors = [float(np.std(each, ddof=1)) / FOLDS**0.5 for each in behind]
    near = [
        each
        for each, lag, error in zip(found, behind, errors, strict=True)
        if float(np.mean(lag)) <= error
    ]
    chosen = min(near, key=lambda each: float(np.mean(each.nll)))
    names = ["DRG with DSR", "validation top-1 %", "behind the first (± standard error)"]
    names += ["less DRG alone (± deviation)", "validation NLL", "choice"]
    table = table_head(names)
    for each, lag, error in zip(found, behind, errors, strict=True):
        word = "chosen" if each is chosen else "within one standard error" if each in near else ""
        table.append(
            table_line(
                [
                    each.name,
                    f"{np.mean(each.top1):.2f}",
                    "" if each is found[0] else f"{np.mean(lag):.2f} ± {error:.2f}",
                    f"{np.mean(each.over_drg):+.2f} ± {np.std(each.over_drg, ddof=1):.2f}",
                    f"{np.mean(each.nll):.3f}",
                    word,
                ]
            )
        )
    return "\n".join(table)


def _candidates(students: Mapping[str, Sequence[Line]], reference: str) -> list[_Candidate]:
    rows = [{row.name: row for row in rows_of(lines)} for lines in students.values()]
    kept = [
        {each.name for each in verdicts(lines, reference) if each.word == "in"}
        for lines in students.values()
    ]
    found = []
    for name in sorted(set.intersection(*kept)) if kept else []:
        _, dsr, shape = name.partition(_DSR)
        if not dsr or shape in CONTROLS:
            continue
        own = [of_student[name].lines for of_student in rows]
        if any(len(lines) < FOLDS for lines in own):
            continue
        pairs = [
            pair
            for of_student in rows
            if (base := _base(name, of_student, reference))
            for pair in paired_lines(of_student[name], of_student[base])
        ]
        found.append(
            _Candidate(
                name,
                [float(np.mean([_top1(line) for line in fold])) for fold in zip(*own, strict=True)],
                [
                    float(np.mean([x["validation_nll"] for x in fold]))
                    for fold in zip(*own, strict=True)
                ],
                [_top1(one) - _top1(other) for one, other in pairs],
            )
        )
    return found


def _base(name: str, by_name: Mapping[str, Row], reference: str) -> str | None:
    """The row that `name` is compared with: DRG with the same heads, or the reference."""
    drg, dsr, _ = name.partition("+dsr")
    base = drg if dsr and drg in by_name else reference
    return base if base in by_name else None


def _top1(line: Line) -> float:
    """Validation top-1 in percent."""
    return 100 * float(line["validation_top1"])
