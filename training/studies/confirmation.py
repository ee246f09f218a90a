"""What a study that confirms says on one screen: every method on every student, with intervals."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.model.figures import calibration_gap
from training.studies.evidence_tables import (
    FEWEST_TO_DRAW,
    Question,
    answers_table,
    asked_columns,
    columns_of,
    intervals_of,
    paired_columns,
    scaled,
    shown,
)
from training.studies.line_groups import data_and_recipe, groups
from training.studies.paired_tests import (
    Interval,
    crossed_bootstrap,
    mean_of,
    paired_t,
    seeds_needed,
)
from training.studies.result_lines import Line
from training.studies.study_table import mean_and_deviation, paragraph, table_head, table_line
from training.studies.table_rows import Row, baseline_of, by_student, rows_of

_POINTS = 100.0  # in one
_FIRST_PAIRS = 6
LEAST_SEEDS, MOST_SEEDS = 12, 20
# In the confirming studies' words, for readers who do not know the names of methods.
_WORDS = {"chosen": "chosen", "drg": "its DRG alone", "ds": "its heads alone"}


def gains_table(students: Mapping[str, Sequence[Line]], roles: Mapping[str, str]) -> str:
    """Top-1 of every method and its gain over cross-entropy, with 95 % intervals.

    Args:
        students: the lines of each student; every line has a record of its test images.
        roles: the methods that stand for a role.
    """
    names = [
        word
        for student in students
        for word in (f"{student}: top-1 %", "over cross-entropy, points", "seeds")
    ]
    table = table_head(["method", *names])
    rows = {student: rows_of(lines) for student, lines in students.items()}
    for name in dict.fromkeys(row.name for found in rows.values() for row in found):
        cells = [cell for found in rows.values() for cell in _cells(name, found)]
        table.append(table_line([_label(name, roles), *cells]))
    return "\n".join(table)


def weights_table(lines: Sequence[Line]) -> str:
    """Averaged weights beside those of the last step, and ECE before and after calibration.

    ECE is of the images of all seeds together, with 15 bins: of one run's images alone it is
    mostly the bins' noise. It is not judged (docs/evidence.md).

    Args:
        lines: of one student, with a record of its test images.
    """
    names = ["method", "top-1 % of averaged weights", "of the last weights"]
    table = table_head([*names, "ECE % before calibration", "after"])
    for row in rows_of(lines):
        columns = columns_of(row.lines)
        right = columns["right"].ravel()
        eces = [
            f"{_POINTS * calibration_gap(columns[name].ravel(), right):.2f}"
            if name in columns
            else ""
            for name in ("confidence_uncalibrated", "confidence")
        ]
        tops = [
            mean_and_deviation(row.lines, lambda line: _POINTS * float(line["top1"])),
            mean_and_deviation(
                row.lines, lambda line: _POINTS * float(line["last_weights"]["top1"])
            ),
        ]
        table.append(table_line([row.name, *tops, *eces]))
    return "\n".join(table)


def deviations_table(
    students: Mapping[str, Sequence[Line]], questions: Sequence[Question], roles: Mapping[str, str]
) -> str:
    """How much the differences of the questions deviate from seed to seed, without their means.

    docs/evidence.md adds seeds by it, before any mean is looked at.

    Args:
        students: the lines of each student.
        questions: of the plan.
        roles: the methods that stand for a role.

    Returns:
        A Markdown table of standard deviations; a cell is empty with fewer than _FIRST_PAIRS pairs.
    """
    table = table_head(["difference", *(f"deviation of {name}" for name in students)])
    found = {name: rows_of(own) for name, own in students.items()}
    for question in questions:
        names = [roles.get(name, name) for name in (question.first, question.second)]
        cells = []
        for rows in found.values():
            gaps = _gaps(rows, question, roles)
            if gaps is None or len(gaps) < _FIRST_PAIRS or np.isnan(gaps).any():
                cells.append("")
            else:
                cells.append(f"{np.std(gaps, ddof=1):.3g} {question.unit}")
        table.append(table_line([f"{question.asks} ({' - '.join(names)})", *cells]))
    return "\n".join(table)


def seeds_asked_for(
    students: Mapping[str, Sequence[Line]], questions: Sequence[Question], roles: Mapping[str, str]
) -> int | None:
    """How many seeds the plan wants, by how much the first pairs of its first question deviate.

    docs/evidence.md has the rule: so many that a paired t-test shows `at_least` with the larger of
    the students' deviations, and from LEAST_SEEDS to MOST_SEEDS.

    Returns:
        The number; None while a student has fewer than _FIRST_PAIRS pairs.
    """
    question = questions[0]
    assert question.at_least is not None
    deviations = []
    for lines in students.values():
        gaps = _gaps(rows_of(lines), question, roles) if lines else None
        if gaps is None or len(gaps) < _FIRST_PAIRS:
            return None
        deviations.append(float(np.std(gaps[:_FIRST_PAIRS], ddof=1)))
    needed = seeds_needed(question.at_least, max(deviations))
    return min(MOST_SEEDS, max(LEAST_SEEDS, needed))


def answer_in_sentences(
    students: Mapping[str, Sequence[Line]], questions: Sequence[Question], roles: Mapping[str, str]
) -> str:
    """The answer of a confirming study in three sentences, or four.

    They say what the chosen variant gains over cross-entropy, what each of its parts adds, and
    which of the questions are answered by yes with every student; and for which of these a paired
    t-test does not agree, if there are such.

    Args:
        students: the lines of each student.
        questions: of the plan.
        roles: the methods that stand for a role.
    """
    found, found_by_t = (
        {
            name: dict(zip(questions, intervals_of(own, questions, roles, by=by), strict=True))
            for name, own in students.items()
        }
        for by in (crossed_bootstrap, paired_t)
    )

    def gains(first: str, second: str) -> str:
        (asked,) = (each for each in questions if _compares(each, first, second))
        cells = [(name, own[asked]) for name, own in found.items()]
        return " and ".join(
            f"{shown(each, 2) if each else 'not measured'} with {name}" for name, each in cells
        )

    lines = next(iter(students.values()))
    seeds = len({line["seed"] for line in lines})
    yes, no = _answered(questions, found)
    _, not_by_t = _answered(questions, found_by_t)
    unsafe = [asks for asks in yes if asks in not_by_t]
    return " ".join(
        [
            f"In points of top-1, with 95 % intervals over {seeds} seeds and the test images, "
            f"DRG+DSR ({roles['chosen']}) is {gains('chosen', 'ce')} over cross-entropy.",
            f"Its DSR adds {gains('chosen', 'drg')} to its DRG alone, and that DRG adds "
            f"{gains('drg', 'ds')} to the cross-entropy of its heads.",
            f"Of the plan's {len(questions)} questions {_listed(yes)} answered by yes with every "
            f"student; {_listed(no)} not.",
            *([f"By the paired t-test {_listed(unsafe)} not."] if unsafe else []),
        ]
    )


def gain_in_a_sentence(students: Mapping[str, Sequence[Line]], roles: Mapping[str, str]) -> str:
    """What the chosen variant gains over cross-entropy, and its heads without distillation."""

    def gains(role: str) -> str:
        cells = ((name, [*_cells(roles[role], rows_of(own))][1]) for name, own in students.items())
        return " and ".join(f"{gain or 'not measured'} with {name}" for name, gain in cells)

    lines = next(iter(students.values()))
    line, seeds = lines[0], len({line["seed"] for line in lines})
    return (
        f"{line['data']} at {line['image_size']} px, {line['epochs']} epochs, points of top-1 over "
        f"cross-entropy with 95 % intervals over {seeds} seeds and the test images: DRG+DSR is "
        f"{gains('chosen')}; the cross-entropy of its heads alone is {gains('ds')}."
    )


def confirmed_parts(
    lines: Sequence[Line], questions: Sequence[Question], roles: Mapping[str, str]
) -> list[str]:
    """The block of RESULTS.md: data and recipe, `gains_table`, and each student's answers.

    Args:
        lines: of all students.
        questions: of the plan.
        roles: the methods that stand for a role.
    """
    students = by_student(lines)
    first = groups(lines)[0]
    place = f"{first[0]['data']} at {first[0]['image_size']} px, {first[0]['epochs']} epochs"
    parts = [paragraph(f"{place}: {data_and_recipe(first)}."), gains_table(students, roles)]
    parts += _with_fewer_seeds(students)
    for name, own in students.items():
        parts += [f"**{name}**", answers_table(own, questions, roles)]
    return parts


def _with_fewer_seeds(students: Mapping[str, Sequence[Line]]) -> list[str]:
    """A sentence on the methods whose runs are of fewer seeds than others; nothing if none are."""
    rows = [row for lines in students.values() for row in rows_of(lines)]
    most = max(len(row.lines) for row in rows)
    fewer = dict.fromkeys(row.name for row in rows if len(row.lines) < most)
    if not fewer:
        return []
    return [
        paragraph(
            f"Of {', '.join(fewer)} there are fewer seeds, and no question of the plan compares "
            "them. Their gain is over cross-entropy with these seeds; their top-1 is that of other "
            "seeds than in the other rows."
        )
    ]


def _gaps(
    rows: Sequence[Row], question: Question, roles: Mapping[str, str]
) -> NDArray[np.float64] | None:
    """The question's differences (S,) of S pairs, in its unit and in the order of their seeds."""
    pairs = asked_columns(rows, question, roles)
    if pairs is None:
        return None
    weights = np.ones((1, pairs[0]["right"].shape[1]))
    gaps = question.statistic(pairs[0], weights) - question.statistic(pairs[1], weights)
    found: NDArray[np.float64] = question.scale * gaps[0]
    return found


def _compares(question: Question, first: str, second: str) -> bool:
    return (question.first, question.second, question.scale) == (first, second, _POINTS)


def _answered(
    questions: Sequence[Question], found: Mapping[str, Mapping[Question, Interval | None]]
) -> tuple[list[str], list[str]]:
    """The questions that every student's interval answers by yes, and the others."""
    yes: list[str] = []
    no: list[str] = []
    for question in questions:
        own = [each[question] for each in found.values()]
        by_all = all(each is not None and question.answer(each) for each in own)
        (yes if by_all else no).append(question.asks)
    return yes, no


def _listed(questions: Sequence[str]) -> str:
    """The questions as the subject of "answered": "“A?” and “B?” are", or "none is"."""
    if not questions:
        return "none is"
    *others, last = (f"“{question}”" for question in questions)
    return f"{', '.join(others)} and {last} are" if others else f"{last} is"


def _cells(name: str, rows: Sequence[Row]) -> Iterator[str]:
    """Top-1, the gain and the number of seeds; of a row that is not there, nothing."""
    row = next((row for row in rows if row.name == name), None)
    if row is None:
        yield from ("", "", "")
        return
    yield f"{np.mean([_POINTS * line['top1'] for line in row.lines]):.2f}"
    pairs = paired_columns(row, baseline_of(row, rows))
    if pairs is None or pairs[2] < FEWEST_TO_DRAW:
        yield ""
    else:
        found = crossed_bootstrap(pairs[0], pairs[1], mean_of("right"))
        yield shown(scaled(found, _POINTS), 2)
    yield str(len(row.lines))


def _label(name: str, roles: Mapping[str, str]) -> str:
    words = [word for role, word in _WORDS.items() if roles.get(role) == name]
    return f"{name} ({words[0]})" if words else name
