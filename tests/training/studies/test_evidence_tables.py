"""Differences with intervals, and answers to the plan's questions."""

import re
import warnings
from pathlib import Path

import msgspec
import numpy as np
import pytest
from scipy import stats

from runtime.base.errors import UserError
from tests.support.study_lines import cells, line
from training.studies.confirmation import deviations_table
from training.studies.evidence_plan import FULL, STUDIES, planned_runs
from training.studies.evidence_tables import (
    Question,
    answers_table,
    differences_table,
)
from training.studies.paired_tests import Interval, mean_of
from training.studies.plan_state import open_table
from training.studies.queue_studies import ASKED, QUEUE, plan_lines
from training.studies.result_lines import are_of_one_data, merge_lines
from training.studies.study_table import short_table

ROLES = {"chosen": "drg+dsr-below-first", "drg": "drg-a0.2", "ce-as-long": "ce-13-epochs"}


def test_a_difference_has_the_mean_of_the_pairs_and_ends_around_it() -> None:
    lines = [line("ce", seed, 0.5 + 0.01 * (seed % 3)) for seed in range(11)]
    lines += [line("drg", seed, 0.6 + 0.01 * (seed % 3)) for seed in range(10)]
    lines += [line("ds", seed, 0.9) for seed in range(2)]  # too few to have an interval
    ((name, pairs, by, top1, p_value, nll, auroc),) = cells(differences_table(lines))
    assert (name, pairs, by) == ("drg", "10", "bootstrap")
    mean, low, high = (
        float(word) for word in top1.replace("[", "").replace("]", "").split()[::1] if word != "to"
    )
    assert mean == 10.0
    # A gain on a tenth of 400 shared images: its binomial deviation is 1.5 points.
    assert low == pytest.approx(10 - 1.96 * 1.5, abs=0.6)
    assert high == pytest.approx(10 + 1.96 * 1.5, abs=0.6)
    assert float(p_value) == pytest.approx(0.001, abs=5e-4)
    assert float(nll.split()[0]) == pytest.approx(-0.1, abs=1e-3)  # a unit of logit on a tenth
    assert float(auroc.split()[0]) == 0.0  # all answers are as sure: 1/2 both


def test_few_pairs_have_the_interval_of_a_paired_t_test() -> None:
    """The gains of three pairs, 2.25, 10.5 and 6.5 points, are no finding."""
    lines = [line("ce", seed, 0.5) for seed in range(3)]
    gains = (0.0225, 0.105, 0.065)
    lines += [line("drg", seed, 0.5 + gain) for seed, gain in enumerate(gains)]
    ((name, pairs, by, top1, p_value, _, _),) = cells(differences_table(lines))
    assert (name, pairs, by) == ("drg", "3", "paired t")
    found = stats.ttest_1samp(np.array(gains) * 100, 0.0)
    low, high = found.confidence_interval(0.95)
    assert top1 == f"{100 * np.mean(gains):+.2f} [{low:+.2f} to {high:+.2f}]"
    assert low < 0 < high
    assert p_value == f"{found.pvalue:.3f}"


@pytest.mark.parametrize(("seeds", "p_value"), [(3, ""), (10, "0.001")])
def test_what_is_not_known_is_an_empty_cell_or_a_word(seeds: int, p_value: str) -> None:
    """All three pairs are alike, and DRG is right on all images, so it has no AUROC."""
    lines = [line("ce", seed, 0.7) for seed in range(seeds)]
    lines += [line("drg", seed, 1.0) for seed in range(seeds)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ((_, pairs, by, top1, p, nll, auroc),) = cells(differences_table(lines))
    assert (pairs, by) == (str(seeds), "paired t" if seeds == 3 else "bootstrap")
    assert (p, auroc) == (p_value, "")
    for cell, difference in ((top1, "+30.00"), (nll, "-0.300")):
        assert cell.startswith(f"{difference} [")
        assert ("all pairs alike" in cell) == (seeds == 3)


def test_a_question_without_a_figure_is_open() -> None:
    lines = [line("ce", seed, 0.7) for seed in range(10)]
    lines += [line("drg+dsr-below-first", seed, 1.0) for seed in range(10)]
    rows = cells(answers_table(lines, ASKED, ROLES))
    # Of pairs that are all alike, as these are, a paired t-test knows nothing.
    yes = "yes, not by the paired t-test"
    assert [row[3] for row in rows] == [yes, "open", "open", yes, "open", "open"]
    assert rows[0][5] == "+30.00 [all pairs alike]"
    row = cells(deviations_table({"a": lines}, ASKED, ROLES))[2]
    assert row == ["Does it rank its answers as well? (drg+dsr-below-first - ce)", ""]


def test_lines_without_a_record_of_their_images_have_no_intervals() -> None:
    lines = [line(method, seed, 0.5) for method in ("ce", "drg") for seed in range(3)]
    assert differences_table(lines) is not None
    del lines[0]["images"]
    assert differences_table(lines) is None


def test_runs_that_state_other_images_are_not_compared() -> None:
    """400 images each, but not the same ones: a pair of them says nothing."""
    one, other = {"content_digest": "a", "data_digest": "x"}, {"content_digest": "b"}
    lines = [line(method, seed, 0.5, **one) for method in ("ce", "drg") for seed in range(3)]
    assert differences_table(lines) is not None
    lines[5] |= other
    with pytest.raises(
        UserError, match=r"^runs of drg and ce on digits are of other images .*file"
    ):
        differences_table(lines)
    with_top1 = [{**each, "top1": 0.5, "ece": 0.1} for each in lines]
    with pytest.raises(UserError, match="of other images"):
        short_table(with_top1)


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        ({"content_digest": "a", "data_digest": "x"}, {"data_digest": "x"}, True),
        ({"content_digest": "a", "data_digest": "x"}, {"data_digest": "y"}, False),
        ({"content_digest": "a", "data_digest": "x"}, {"content_digest": "a"}, True),
        ({"data_digest": "x"}, {"data_digest": "y"}, False),
        ({"content_digest": "a", "data_digest": "x"}, {}, True),  # of an old one nothing is known
    ],
)
def test_the_older_digest_counts_where_a_line_has_no_newer_one(
    first: dict[str, str], second: dict[str, str], alike: bool
) -> None:
    assert are_of_one_data([first, second]) is alike
    assert are_of_one_data([second, first]) is alike


def test_the_questions_are_those_of_the_plan() -> None:
    """docs/evidence.md has a row for each, in this order, with these bars."""
    text = (Path(__file__).parents[3] / "docs/evidence.md").read_text(encoding="utf-8")
    rows = [row for row in text.splitlines() if row.startswith(tuple(f"| {n} |" for n in "123456"))]
    assert len(rows) == len(ASKED) == 6
    for row, question in zip(rows, ASKED, strict=True):
        stated = row.split("|")[4]
        ((end, side, bar),) = re.findall(r"(lower|upper) end[^,]* (above|below) (-?[\d.]+)", stated)
        assert (end, side) == (("lower", "above") if question.lower else ("upper", "below"))
        assert float(bar) == question.bar
        least = re.findall(r"mean at least \+([\d.]+)", stated)
        assert list(map(float, least)) == [question.at_least] * (question.at_least is not None)


@pytest.mark.parametrize(
    ("interval", "answer"),
    [
        (Interval(2.1, 0.1, 4.0, 0.01), True),
        (Interval(1.9, 0.1, 4.0, 0.01), False),  # the mean is too small
        (Interval(2.5, -0.1, 5.0, 0.06), False),  # may be chance
    ],
)
def test_a_gain_counts_only_with_both_its_mean_and_its_lower_end(
    interval: Interval, answer: bool
) -> None:
    assert ASKED[0].answer(interval) is answer


def test_an_upper_end_counts_from_below() -> None:
    nll = ASKED[3]
    assert nll.answer(Interval(0.01, 0.0, 0.019, 1.0))
    assert not nll.answer(Interval(0.0, -0.03, 0.021, 1.0))


def test_answers_are_yes_no_or_open() -> None:
    lines = [line("ce", seed, 0.5) for seed in range(10)]
    lines += [line("drg-a0.2", seed, 0.7) for seed in range(10)]
    lines += [line("drg+dsr-below-first", seed, 0.65 + 0.01 * (seed % 2)) for seed in range(10)]
    rows = cells(answers_table(lines, ASKED, ROLES))
    answers = [row[3] for row in rows]
    unknown = "yes, not by the paired t-test"  # whose pairs are all alike
    assert answers == ["yes", "no", unknown, "yes", "open", "open"]
    assert rows[0][0] == "Does DRG+DSR pay? (drg+dsr-below-first - ce)"
    assert rows[0][1].startswith("+15.50 [")
    assert rows[1][1].startswith("-4.50 [")
    low, high = stats.t.interval(0.95, 9, 15.5, stats.sem([15, 16] * 5))
    assert rows[0][5] == f"+15.50 [{low:+.2f} to {high:+.2f}]"
    fewer = [each for each in lines if each["seed"] < 9]
    assert {row[3] for row in cells(answers_table(fewer, ASKED, ROLES))} == {"open"}
    # Six questions: the smallest p-value, 0.001, counts six times.
    assert float(rows[0][4]) == pytest.approx(0.006, abs=1e-3)


def test_a_question_of_which_no_method_was_run_is_open() -> None:
    question = Question("?", "drg", "ds", mean_of("right"), 100, "points", bar=0.0)
    ((_, difference, _, answer, p_value, _),) = cells(
        answers_table([line("ce", 0, 0.5)], [question], {})
    )
    assert (difference, answer, p_value) == ("open", "open", "")


def test_a_line_of_another_student_or_recipe_is_not_of_a_planned_run(tmp_path: Path) -> None:
    main = planned_runs(STUDIES["main"], FULL)
    of_plan = [
        {
            **line(run.method.name, run.seed, 0.5, study="main", data="cifar100", arch=run.arch),
            "width": 1.0,
            "image_size": 32,
            "epochs": run.recipe.epochs,
            "recipe": msgspec.json.decode(msgspec.json.encode(run.recipe)),
        }
        for run in main[:6]
    ]
    of_plan[1]["width"] = 0.25
    of_plan[2]["image_size"] = 64
    of_plan[3]["recipe"]["learning_rate"] = 9.0
    del of_plan[4]["recipe"]["fit"]  # of an older version: the default
    merge_lines(tmp_path / "main.jsonl", of_plan)
    rows = {row[0].split("]")[0].strip("["): row for row in cells(open_table(tmp_path, links=""))}
    assert rows["main"][2] == f"3 of {len(main)}"


def test_the_state_of_the_queue_counts_its_runs(tmp_path: Path) -> None:
    study = QUEUE[0]
    known = [planned for planned in study.lines() if planned.method in ("ce", "ds")][:3]
    lines = [{**line(x.method, x.seed, 0.5), "arch": x.arch, "study": study.name} for x in known]
    merge_lines(tmp_path / f"{study.name}.jsonl", lines)
    rows = {row[0].split("]")[0].strip("["): row for row in cells(open_table(tmp_path, links=""))}
    count = sum(planned.study == study.name for planned in plan_lines())
    dropped = "the others were dropped ([amendments](../docs/evidence.md))"
    assert rows[study.name][2:] == [f"3 of {count}; {dropped}", ""]
    assert rows["imagenette-confirm"][2:] == [
        *("0 of 320", "[Running it](../docs/evidence.md#running-it)")
    ]
    assert "--queue imagenette-peers" in rows["imagenette-peers"][3]
    done = [x for x in plan_lines() if x.study == "imagenette-peers"]
    lines = [{**line(x.method, x.seed, 0.5), "arch": x.arch} for x in done]
    merge_lines(tmp_path / "imagenette-peers.jsonl", lines)
    rows = {row[0].split("]")[0].strip("["): row for row in cells(open_table(tmp_path, links=""))}
    assert rows["imagenette-peers"][2:] == ["66 of 66", ""]
