"""What runs of a study say about a question: differences with intervals, and answers.

docs/evidence.md says which questions were asked, and what counts as an answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Protocol

import numpy as np

from training.evaluation.confidence import read_image_record
from training.studies.paired_tests import (
    Columns,
    Interval,
    Statistic,
    area,
    crossed_bootstrap,
    holm,
    mean_of,
    paired_t,
)
from training.studies.result_lines import Line
from training.studies.study_table import table_head, table_line
from training.studies.table_rows import Row, baseline_of, paired_lines, rows_of

FEWEST_SEEDS = 3
# With fewer pairs the bootstrap knows too little of how much seeds differ: where seeds differ much,
# its interval holds the truth in 80 % of cases with three pairs, and in 89 % with six
# (tests/benchmarks/interval_power.py). A paired t-test then says how little is known.
FEWEST_TO_DRAW = 10
_POINTS = 100.0  # in one
_TOP1, _NLL = mean_of("right"), mean_of("nll")


class PairedInterval(Protocol):
    """`crossed_bootstrap` or `paired_t`."""

    def __call__(
        self, first: Columns, second: Columns, statistic: Statistic, *, against: float = 0.0
    ) -> Interval: ...


@dataclass(frozen=True)
class Question:
    """A question of the plan about two methods.

    Attributes:
        asks: the question in words.
        first: the method that is judged, or its role in the study ("chosen").
        second: what it is compared with.
        statistic: of the test images.
        scale: what a difference is multiplied with, 100 for points.
        unit: of the difference.
        bar: the end of the interval that decides is to lie beyond it.
        lower: whether that is the lower end.
        at_least: what the mean is to reach as well.
    """

    asks: str
    first: str
    second: str
    statistic: Statistic
    scale: float
    unit: str
    bar: float
    lower: bool = True
    at_least: float | None = None

    def interval(
        self, first: Columns, second: Columns, *, by: PairedInterval = crossed_bootstrap
    ) -> Interval:
        """The difference in the question's unit; its p-value is that of the bar."""
        found = by(first, second, self.statistic, against=self.bar / self.scale)
        return scaled(found, self.scale)

    def answer(self, found: Interval) -> bool:
        """Whether this interval, in the question's unit, counts as yes."""
        beyond = found.low > self.bar if self.lower else found.high < self.bar
        return beyond and (self.at_least is None or found.difference >= self.at_least)

    @property
    def counts(self) -> str:
        """What counts as yes, in words."""
        end = f"lower end above {self.bar:g}" if self.lower else f"upper end below {self.bar:g}"
        return end if self.at_least is None else f"mean at least +{self.at_least:g}, {end}"


def has_images(lines: Sequence[Line]) -> bool:
    """Whether every line keeps a record of the same number of test images."""
    return all("images" in line for line in lines) and len({x["test_images"] for x in lines}) == 1


def differences_table(lines: Sequence[Line]) -> str | None:
    """Every method less cross-entropy, with intervals of 95 %.

    With FEWEST_TO_DRAW pairs they are of the bootstrap over seeds and test images, with fewer of a
    paired t-test over the seeds; a column says which. The p-values are adjusted for the number of
    methods by Holm's method.

    Args:
        lines: of one student on one data set.

    Returns:
        A Markdown table; None where no method has FEWEST_SEEDS seeds in common with cross-entropy,
        or a line has no record of its images.
    """
    if not has_images(lines):
        return None
    rows, found = rows_of(lines), []
    for row in rows:
        pairs = paired_columns(row, baseline_of(row, rows))
        if pairs is not None:
            first, second, seeds = pairs
            drawn = seeds >= FEWEST_TO_DRAW
            by = crossed_bootstrap if drawn else paired_t
            figures = [by(first, second, each) for each in (_TOP1, _NLL, area)]
            found.append((row.name, seeds, "bootstrap" if drawn else "paired t", figures))
    if not found:
        return None
    adjusted = holm([figures[0].p_value for *_, figures in found])
    names = ["less cross-entropy", "pairs", "interval", "top-1, points", "p (Holm)"]
    table = table_head([*names, "NLL", "AUROC"])
    for (name, seeds, by_name, (top1, nll, auroc)), p_value in zip(found, adjusted, strict=True):
        cells = [name, str(seeds), by_name, shown(scaled(top1, _POINTS), 2), _p(p_value)]
        table.append(table_line([*cells, shown(nll, 3), shown(auroc, 3)]))
    return "\n".join(table)


def answers_table(
    lines: Sequence[Line], questions: Sequence[Question], roles: Mapping[str, str]
) -> str:
    """The answers to the questions of the plan, each with its interval, for one student.

    The bootstrap decides. The interval of a paired t-test over the seeds stands beside it, and the
    answer says where it does not agree with a yes. A question whose runs are missing is open.

    Args:
        lines: of one student on one data set.
        questions: of the plan, all of which count for Holm's method.
        roles: the methods that stand for a role.
    """
    names = ["question", "difference", "counts as yes", "answer", "p (Holm)", "by a paired t-test"]
    table = table_head(names)
    found = intervals_of(lines, questions, roles)
    paired = intervals_of(lines, questions, roles, by=paired_t)
    # A question without runs has no p-value yet. It counts as the worst one for the others.
    adjusted = holm([1.0 if each is None else each.p_value for each in found])
    for question, each, by_t, p_value in zip(questions, found, paired, adjusted, strict=True):
        methods = " - ".join(roles.get(name, name) for name in (question.first, question.second))
        asks = f"{question.asks} ({methods})"
        if each is None or by_t is None:
            table.append(table_line([asks, "open", question.counts, "open", "", ""]))
        else:
            digits = 2 if question.scale == _POINTS else 3
            answer = "yes" if question.answer(each) else "no"
            if answer == "yes" and not question.answer(by_t):
                answer = "yes, not by the paired t-test"
            cells = [f"{shown(each, digits)} {question.unit}", question.counts, answer, _p(p_value)]
            table.append(table_line([asks, *cells, shown(by_t, digits)]))
    return "\n".join(table)


def intervals_of(
    lines: Sequence[Line],
    questions: Sequence[Question],
    roles: Mapping[str, str],
    *,
    by: PairedInterval = crossed_bootstrap,
) -> list[Interval | None]:
    """The interval of each question; None with fewer than FEWEST_TO_DRAW pairs, or no figure.

    Args:
        lines: of one student on one data set.
        questions: of the plan.
        roles: the methods that stand for a role.
        by: what makes an interval of two methods' columns.
    """
    rows = rows_of(lines)
    found: list[Interval | None] = []
    for question in questions:
        pairs = asked_columns(rows, question, roles)
        own = None
        if pairs is not None and pairs[2] >= FEWEST_TO_DRAW:
            own = question.interval(pairs[0], pairs[1], by=by)
        found.append(None if own is None or isnan(own.difference) else own)
    return found


def asked_columns(
    rows: Sequence[Row], question: Question, roles: Mapping[str, str]
) -> tuple[Columns, Columns, int] | None:
    """`paired_columns` of the two methods of the question; None where its runs are missing.

    Args:
        rows: of one student.
        question: of the plan.
        roles: the methods that stand for a role.
    """
    first, second = (
        next((row for row in rows if row.method == roles.get(name, name)), None)
        for name in (question.first, question.second)
    )
    return paired_columns(first, second) if first else None


def scaled(found: Interval, factor: float) -> Interval:
    """The interval in another unit. The p-value stays."""
    low, high = factor * found.low, factor * found.high
    return Interval(factor * found.difference, low, high, found.p_value)


def paired_columns(row: Row, baseline: Row | None) -> tuple[Columns, Columns, int] | None:
    """The images' columns of the runs of both with the same seeds, and how many seeds these are.

    None for fewer than FEWEST_SEEDS.
    """
    pairs = paired_lines(row, baseline) if baseline else []
    if len(pairs) < FEWEST_SEEDS:
        return None
    own, others = zip(*pairs, strict=True)
    return columns_of(own), columns_of(others), len(pairs)


def columns_of(lines: Sequence[Line]) -> Columns:
    """The columns (S, N) of the test images of S runs; those that every line's record has."""
    records = [read_image_record(line["images"]) for line in lines]
    names = [name for name in records[0] if all(name in record for record in records)]
    return {name: np.stack([record[name] for record in records]) for name in names}


def shown(found: Interval, digits: int) -> str:
    """The interval as a cell: "+1.20 [+0.40 to +2.00]"; empty where there is no difference.

    A paired t-test of pairs that are all alike has no interval.
    """
    if isnan(found.difference):
        return ""
    difference = f"{round(found.difference, digits) + 0.0:+.{digits}f}"
    if isnan(found.low):
        return f"{difference} [all pairs alike]"
    ends = f"{found.low:+.{digits}f} to {found.high:+.{digits}f}"
    return f"{difference} [{ends}]"


def _p(value: float) -> str:
    return "" if isnan(value) else f"{value:.3f}"
