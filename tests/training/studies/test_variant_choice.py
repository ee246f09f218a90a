"""The verdicts of the filter, and the choice of what it leaves."""

from pathlib import Path

import pytest

from tests.support.study_lines import cells, line
from training.studies.queue_plan import QueueStudy
from training.studies.report_pages import block_text
from training.studies.result_lines import Line, merge_lines
from training.studies.variant_choice import FOLDS, choice_table, filter_table


def folds(method: str, top1: list[float], nll: float) -> list[Line]:
    """Lines of a method with this validation top-1 (percent) of each fold."""
    return [
        line(method, seed, 0.5, validation_nll=nll, validation_top1=value / 100)
        for seed, value in enumerate(top1)
    ]


def test_the_filter_puts_out_what_the_plan_says() -> None:
    def pair(method: str, nll: tuple[float, ...], top1: tuple[float, ...]) -> list[Line]:
        return [
            line(method, seed, 0.5, validation_nll=a, validation_top1=b)
            for seed, (a, b) in enumerate(zip(nll, top1, strict=True))
        ]

    lines = [
        *pair("drg-a0.2", (1.0, 1.1), (0.60, 0.62)),
        *pair("drg+dsr-paper", (1.02, 1.115), (0.60, 0.62)),  # worse NLL with both seeds
        *pair("drg+dsr-fade", (1.02, 1.105), (0.60, 0.62)),  # with one of them only
        *pair("drg+dsr-below-first", (0.9, 1.0), (0.59, 0.619)),  # -1.0 and -0.1: -0.55
        *pair("drg+dsr-auxiliary", (1.0,), (0.60,)),
    ]
    verdicts = {row[0]: row[5] for row in cells(filter_table(lines, "drg-a0.2"))}
    assert verdicts == {
        "drg+dsr-paper": "out",
        "drg+dsr-fade": "in",
        "drg+dsr-below-first": "out",
        "drg+dsr-auxiliary": "open, one seed",
    }
    assert filter_table(lines, "drg-a1") is None


def test_a_shape_is_compared_with_the_same_heads() -> None:
    figures = {"drg-a0.2": 0.5, "drg-multi-a1": 0.7, "drg-multi-a1+dsr-fade": 0.6, "drg-a1": 0.45}
    lines = [
        line(method, seed, 0.5, validation_nll=1.0, validation_top1=top1)
        for method, top1 in figures.items()
        for seed in (0, 1)
    ]
    found = {row[0]: (row[1], row[4], row[5]) for row in cells(filter_table(lines, "drg-a0.2"))}
    assert found == {
        "drg-multi-a1": ("drg-a0.2", "+20.00", "in"),
        "drg-multi-a1+dsr-fade": ("drg-multi-a1", "-10.00", "out"),
        "drg-a1": ("drg-a0.2", "-5.00", "out"),
    }


def test_seeds_that_hold_out_other_fifths_are_one_row() -> None:
    lines = [
        line("drg-a0.2", seed, 0.5, validation_nll=1.0, validation_top1=0.5) for seed in (0, 1)
    ]
    lines += [line("dsr", seed, 0.5, validation_nll=1.0, validation_top1=0.5) for seed in (0, 1)]
    for each in lines:
        each["recipe"]["validation_fold"] = each["seed"]
    lines[0]["recipe"].pop("thresholds", None)  # as older lines are
    lines[1]["recipe"]["thresholds"] = False
    ((name, _, seeds, *_),) = cells(filter_table(lines, "drg-a0.2"))
    assert (name, seeds) == ("dsr", "0, 1")


def test_the_verdict_is_that_of_the_first_two_seeds() -> None:
    """The other folds are for the choice: with them a variant would be judged by another rule."""
    lines = [*folds("drg-a0.2", [50] * FOLDS, 1.0), *folds("dsr", [50, 50, 40, 40, 40], 1.0)]
    ((_, _, seeds, _, top1, verdict),) = cells(filter_table(lines, "drg-a0.2"))
    assert (seeds, top1, verdict) == ("0, 1", "+0.00", "in")


def test_of_equal_variants_the_one_with_the_lowest_nll_is_chosen() -> None:
    one = [
        *folds("drg-a0.2", [50, 50, 50, 50, 50], 1.3),
        *folds("drg+dsr-fade", [60, 62, 60, 62, 60], 1.2),
        *folds("drg+dsr-paper", [62, 60, 60, 61, 60], 1.1),  # 0.2 behind, with a deviation of 1.6
        *folds("drg+dsr-auxiliary", [59, 61, 59, 61, 59], 0.9),  # 1.0 behind, with every fold
        *folds("drg+dsr-below-first", [60, 62], 0.8),  # has not all folds
        *folds("drg+dsr-norm-variance", [90] * FOLDS, 0.7),  # a control
        *folds("drg-multi-a1", [95] * FOLDS, 0.6),  # without DSR
    ]
    # The other student has the same but for one variant, which its filter puts out.
    other = [each for each in one if each["method"] != "drg+dsr-standardised"]
    one += folds("drg+dsr-standardised", [99] * FOLDS, 0.5)
    other += folds("drg+dsr-standardised", [9] * FOLDS, 0.5)
    rows = cells(choice_table({"a": one, "b": other}, "drg-a0.2"))
    assert [(row[0], row[1], row[5]) for row in rows] == [
        ("drg+dsr-fade", "60.80", "within one standard error"),
        ("drg+dsr-paper", "60.60", "chosen"),
        ("drg+dsr-auxiliary", "59.80", ""),
    ]
    assert rows[1][2] == "0.20 ± 0.66"
    assert rows[2][2] == "1.00 ± 0.00"
    assert [row[3] for row in rows] == ["+10.80 ± 1.03", "+10.60 ± 0.84", "+9.80 ± 1.03"]


def test_figures_of_the_students_are_averaged_before_folds_are_compared() -> None:
    base = folds("drg-a0.2", [50] * FOLDS, 1.0)
    fade, paper = "drg+dsr-fade", "drg+dsr-paper"
    one = [*base, *folds(fade, [60] * FOLDS, 1.0), *folds(paper, [57] * FOLDS, 0.9)]
    other = [*base, *folds(fade, [60] * FOLDS, 1.0), *folds(paper, [61] * FOLDS, 0.9)]
    first, second = cells(choice_table({"a": one, "b": other}, "drg-a0.2"))
    assert (first[0], first[1], first[5]) == (fade, "60.00", "chosen")
    assert (second[1], second[2], second[5]) == ("59.00", "1.00 ± 0.00", "")


def test_without_all_folds_nothing_is_chosen() -> None:
    lines = [*folds("drg-a0.2", [50, 50], 1.0), *folds("drg+dsr-fade", [50, 50], 1.0)]
    assert choice_table({"a": lines}, "drg-a0.2") is None
    assert choice_table({}, "drg-a0.2") is None


def test_the_block_of_a_filter_says_how_much_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = QueueStudy("it", "?", ("ce",), (0,), 2, reference="drg-a0.2")
    monkeypatch.setattr("training.studies.report_pages.QUEUED", {"it": study})
    lines = [
        *folds("ce", [40] * 2, 1.5),
        *folds("drg-a0.2", [50] * FOLDS, 1.0),
        *folds("drg+dsr-fade", [51] * FOLDS, 1.0),
    ]
    merge_lines(tmp_path / "it.jsonl", [{**each, "study": "it"} for each in lines])
    text = str(block_text("it", tmp_path))
    assert "2 variants were tried, in 12 runs with those of ce." in text
    ((name, *_, choice),) = cells("\n".join(x for x in text.splitlines() if x.startswith("|")))
    assert (name, choice) == ("drg+dsr-fade", "chosen")
