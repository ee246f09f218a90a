"""The tables of a study that confirms."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.study_lines import IMAGES, cells, line
from training.studies.confirmation import (
    LEAST_SEEDS,
    answer_in_sentences,
    confirmed_parts,
    deviations_table,
    gain_in_a_sentence,
    gains_table,
    seeds_asked_for,
    weights_table,
)
from training.studies.evidence_tables import answers_table
from training.studies.line_groups import groups
from training.studies.paired_tests import seeds_needed
from training.studies.queue_plan import QueueStudy
from training.studies.queue_studies import ASKED
from training.studies.report_pages import block_text, draw_plots, page_texts
from training.studies.result_lines import Line, merge_lines

COMPARED = "runs that the questions compare are there."
ROLES = {"chosen": "drg+dsr-fade", "drg": "drg-a0.2", "ds": "ds", "ce-as-long": "ce-13-epochs"}
SEEDS = 10  # the fewest of which an interval is made
OTHERS = {"last_weights": {"top1": 0.45}, "train_images": 10, "validation_images": 5}


def lines_of(arch: str, gain: float, *, seeds: int = SEEDS) -> list[Line]:
    figures = {"ce": 0.5, "ce-13-epochs": 0.52, "drg+dsr-fade": 0.5 + gain}
    return [
        line(method, seed, accuracy, arch=arch, top1=accuracy, **OTHERS)
        for method, accuracy in figures.items()
        for seed in range(seeds)
    ]


def test_every_method_has_its_gain_on_every_student() -> None:
    students = {"a": lines_of("mobilenetv2", 0.1), "b": lines_of("shufflenetv2", -0.05)[:-1]}
    rows = cells(gains_table(students, ROLES))
    assert [row[0] for row in rows] == ["ce", "ce-13-epochs", "drg+dsr-fade (chosen)"]
    assert [row[1] for row in rows] == ["50.00", "52.00", "60.00"]
    assert rows[0][2] == ""
    assert [rows[1][2][:6], rows[2][2][:7], rows[1][5][:6]] == ["+2.00 ", "+10.00 ", "+2.00 "]
    assert rows[2][4:] == ["45.00", "", "9"]  # too few seeds for an interval


def test_a_method_that_only_one_student_has_leaves_cells_empty() -> None:
    students = {"a": lines_of("mobilenetv2", 0.1), "b": lines_of("shufflenetv2", 0.1)[:SEEDS]}
    assert cells(gains_table(students, ROLES))[2][4:] == ["", "", ""]


def test_cross_entropy_for_as_long_stands_in_the_same_group() -> None:
    lines = lines_of("mobilenetv2", 0.1)
    for each in lines:
        if each["method"] == "ce-13-epochs":
            each["epochs"] = each["recipe"]["epochs"] = 13
    longer = [{**each, "epochs": 4} for each in lines if each["method"] == "ce"]
    both = groups([*longer[:1], *lines[SEEDS:], *lines[:SEEDS]])
    assert [(group[0]["epochs"], len(group)) for group in both] == [(4, SEEDS + 1), (2, 2 * SEEDS)]


def test_ece_is_of_all_seeds_together_before_and_after_calibration() -> None:
    # Half of the answers are right, all with a confidence of 0.731 or 0.269: a gap of 0.231.
    lines = [line("ce", seed, 0.5, top1=0.5, **OTHERS) for seed in range(2)]
    ((name, averaged, last, before, after),) = cells(weights_table(lines))
    assert (name, averaged, last) == ("ce", "50.00 ± 0.00", "45.00 ± 0.00")
    assert float(before) == float(after)
    assert abs(float(after) - 23.1) < 0.1
    del lines[0]["images"]["confidence_uncalibrated"]  # a line of an older version
    assert cells(weights_table(lines))[0][3:] == ["", after]


def test_the_block_says_what_was_run_and_answers_for_each_student() -> None:
    lines = [*lines_of("mobilenetv2", 0.1), *lines_of("shufflenetv2", 0.1)]
    about, gains, *answers = confirmed_parts(lines, ASKED, ROLES)
    assert about.startswith(
        "digits at 16 px, 2 epochs: 10 images trained on, 5 held out, 400 teste"
    )
    assert len(cells(gains)) == 3
    assert [answers[0], answers[2]] == ["**mobilenetv2 x0.5**", "**shufflenetv2 x0.5**"]
    # Of pairs that are all alike, as these are, a paired t-test knows nothing.
    yes = "yes, not by the paired t-test"
    assert [row[3] for row in cells(answers[1])] == [yes, "open", yes, yes, yes, "open"]
    assert lines[0]["test_images"] == IMAGES


def test_the_answer_is_three_sentences_and_one_where_a_paired_t_test_does_not_agree() -> None:
    students = {"a": lines_of("mobilenetv2", 0.1), "b": lines_of("shufflenetv2", 0.01)}
    for lines in students.values():  # seeds differ by an image, in one way and in the other
        for each in lines[-SEEDS:]:
            accuracy = float(each["top1"]) + (1 if each["seed"] % 2 else -1) / IMAGES
            each["images"] = line(each["method"], 0, accuracy)["images"]
    first, second, third, fourth = answer_in_sentences(students, ASKED, ROLES).split(". ")
    assert first.startswith("In points of top-1, with 95 % intervals over 10 seeds and the test im")
    assert "DRG+DSR (drg+dsr-fade) is +10.00 [+7" in first
    assert " with a and +1.00 [" in first
    assert first.endswith(" with b over cross-entropy")
    assert second == (
        "Its DSR adds not measured with a and not measured with b to its DRG alone, and that DRG "
        "adds not measured with a and not measured with b to the cross-entropy of its heads"
    )
    # One point is not two, and one point less than the control of speed is no gain.
    assert third == (
        "Of the plan's 6 questions “Does it rank its answers as well?” and “Are its probabilities "
        "as good?” are answered by yes with every student; “Does DRG+DSR pay?”, “Does its DSR do "
        "no harm to DRG?”, “Is it more than speed?” and “Is it the distillation?” are not"
    )
    # Their pairs have one area, 1/2, so a paired t-test knows nothing of it.
    assert fourth == "By the paired t-test “Does it rank its answers as well?” is not."


def test_the_gain_is_one_sentence_with_the_heads_alone_beside_it() -> None:
    lines = lines_of("mobilenetv2", 0.1)
    lines += [line("ds", seed, 0.56, top1=0.56, **OTHERS) for seed in range(SEEDS)]
    sentence = gain_in_a_sentence({"a": lines, "b": lines_of("shufflenetv2", 0.01)}, ROLES)
    assert sentence.startswith("digits at 16 px, 2 epochs, points of top-1 over cross-entropy with")
    assert f"over {SEEDS} seeds and the test images: DRG+DSR is +10.00 [+7" in sentence
    assert " with a and +1.00 [" in sentence
    assert "; the cross-entropy of its heads alone is +6.00 [" in sentence
    assert sentence.endswith(" with a and not measured with b.")


def test_a_yes_with_which_a_paired_t_test_does_not_agree_is_named() -> None:
    """Whole runs differ: the bootstrap of ten pairs is narrower than the t-test."""
    gains = [0.02, 0.0, 0.0825, 0.0, 0.0, 0.0725, 0.0, 0.01, 0.0, 0.06]
    lines = [line("ce", seed, 0.1) for seed in range(10)]
    lines += [line("drg+dsr-fade", seed, 0.1 + gain) for seed, gain in enumerate(gains)]
    (question,) = [replace(ASKED[0], at_least=None, bar=0.25)]
    ((_, difference, _, answer, _, by_t),) = cells(answers_table(lines, [question], ROLES))
    assert answer == "yes, not by the paired t-test", (difference, by_t)


def test_deviations_between_seeds_are_shown_without_means() -> None:
    gains = [0.1, 0.11, 0.1, 0.12, 0.1, 0.13]
    lines = [line("ce", seed, 0.5) for seed in range(6)]
    lines += [line("drg+dsr-fade", seed, 0.5 + gain) for seed, gain in enumerate(gains)]
    rows = cells(deviations_table({"a": lines, "b": lines[:11]}, ASKED, ROLES))
    assert rows[0][0] == "Does DRG+DSR pay? (drg+dsr-fade - ce)"
    assert len({row[0] for row in rows}) == len(ASKED)
    assert rows[0][1:] == [f"{100 * np.std(gains, ddof=1):.3g} points", ""]  # b has five pairs
    assert rows[1][1:] == ["", ""]
    assert rows[3][1].endswith(" nats")


def test_the_first_six_pairs_say_how_many_seeds_are_wanted() -> None:
    def student(gains: list[float]) -> list[Line]:
        lines = [line("ce", seed, 0.5) for seed in range(len(gains))]
        return lines + [line("drg+dsr-fade", seed, 0.5 + gain) for seed, gain in enumerate(gains)]

    calm, wild = [0.1, 0.11, 0.1, 0.12, 0.1, 0.13], [0.1, 0.1, 0.15, 0.1, 0.15, 0.125]
    assert seeds_asked_for({"a": student(calm), "b": student(calm)}, ASKED, ROLES) == 12
    # The larger deviation of the students counts, and of the first six pairs alone.
    wanted = seeds_needed(2.0, 100 * float(np.std(wild, ddof=1)))
    assert wanted == 14
    assert seeds_asked_for({"a": student(calm), "b": student(wild)}, ASKED, ROLES) == wanted
    later = student([*wild, *[0.3, 0.0, 0.3]])
    assert seeds_asked_for({"a": student(calm), "b": later}, ASKED, ROLES) == wanted
    assert seeds_asked_for({"a": student([*calm[:5], 0.4])}, ASKED, ROLES) == 20  # at most
    assert seeds_asked_for({"a": student(calm), "b": student(wild[:5])}, ASKED, ROLES) is None
    assert seeds_asked_for({"a": student(calm), "b": []}, ASKED, ROLES) is None


def planned(patch: pytest.MonkeyPatch, seeds: int) -> None:
    """The plan has "it", a study that confirms, and "again", which trains one of its runs anew."""
    study = QueueStudy("it", "?", ("ce", "drg+dsr-fade"), range(seeds), 2, roles=ROLES)
    again = replace(study, name="again", methods=("ce",), seeds=range(1), roles={}, corrupted=True)
    patch.setattr("training.studies.waiting.plan_lines", lambda: [*study.lines(), *again.lines()])
    for module in ("report_pages", "waiting"):
        patch.setattr(f"training.studies.{module}.QUEUED", {"it": study, "again": again})


STATED = {
    "study": "it",
    "command": "c",
    "device": "d",
    "versions": {},
    "seconds": 1.0,
    "top5": 0.9,
    "ece": 0.05,
    "params": 10,
    "auxiliary_params": 2,
}


def test_a_study_that_confirms_shows_no_figure_until_all_runs_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(monkeypatch, LEAST_SEEDS)
    lines = [
        {**line, **STATED}
        for arch in ("mobilenetv2", "shufflenetv2")
        for line in lines_of(arch, 0.1, seeds=LEAST_SEEDS)
        if line["method"] != "ce-13-epochs"
    ]
    merge_lines(tmp_path / "it.jsonl", lines[:-1])
    for text in (block_text("it", tmp_path), page_texts(tmp_path)["it.md"]):
        said = " ".join(str(text).split())
        assert f"47 of 48 {COMPARED} Figures are made when all are" in said
        assert "60.00" not in str(text)
    assert draw_plots(tmp_path) == []
    merge_lines(tmp_path / "it.jsonl", lines[-1:])
    assert "60.00" in str(block_text("it", tmp_path))
    page = page_texts(tmp_path)["it.md"]  # says for good what the rule said
    assert "By the plan's rule, its first pairs ask for 12 seeds." in page
    assert "| deviation of mobilenetv2 x0.5 |" in page


def test_rows_that_no_question_compares_may_have_fewer_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = QueueStudy("it", "?", ("ce", "drg+dsr-fade", "dsr-paper"), range(12), 2, roles=ROLES)
    monkeypatch.setattr("training.studies.waiting.plan_lines", study.lines)
    for module in ("report_pages", "waiting"):
        monkeypatch.setattr(f"training.studies.{module}.QUEUED", {"it": study})
    lines = [
        line(method, seed, 0.5, arch=arch, top1=0.5, **OTHERS, **STATED)
        for arch in ("mobilenetv2", "shufflenetv2")
        for method, seeds in (("ce", 12), ("drg+dsr-fade", 12), ("dsr-paper", 8))
        for seed in range(seeds)
    ]
    merge_lines(tmp_path / "it.jsonl", lines)
    said = " ".join(str(block_text("it", tmp_path)).split())
    assert "50.00" in said
    assert "Of dsr-paper there are fewer seeds, and no question of the plan compares them." in said


def test_a_study_that_trains_runs_of_the_confirmation_again_waits_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(monkeypatch, LEAST_SEEDS)
    own = {"top1": 0.5, **OTHERS, **STATED, "study": "again"}
    merge_lines(tmp_path / "again.jsonl", [line("ce", 0, 0.5, **own)])
    figures = {"top1": 0.5, "ece": 0.1}
    tested = {"clean": figures, "corrupted": {"noise": 5 * [figures]}}
    merge_lines(tmp_path / "again-robustness.jsonl", [line("ce", 0, 0.5, **own, **tested)])
    waits = "2 of its runs are runs of it, too, which is not complete."

    def texts() -> list[str]:
        pages = page_texts(tmp_path)
        of_block = str(block_text("again", tmp_path))
        return [of_block, pages["again.md"], pages["again-robustness.md"]]

    assert all(waits in text and "50.00" not in text for text in texts())
    lines = [
        line(method, seed, 0.5, arch=arch, **OTHERS, **STATED)
        for arch in ("mobilenetv2", "shufflenetv2")
        for seed in range(LEAST_SEEDS)
        for method in ("ce", "drg+dsr-fade")
    ]
    monkeypatch.setattr("training.studies.waiting.wanted_seeds", lambda *_: LEAST_SEEDS)
    monkeypatch.setattr("training.studies.waiting.read_lines", lambda _: lines)
    assert all(waits not in text and "50.00" in text for text in texts())


def test_no_figure_is_shown_while_the_rule_asks_for_more_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All planned runs are there; the first pairs deviate so much that they ask for 14 seeds."""
    gains = [0.1, 0.1, 0.15, 0.1, 0.15, 0.125, *8 * [0.1]]
    lines = [
        line(method, seed, accuracy, arch=arch, top1=accuracy, **OTHERS, **STATED)
        for arch in ("mobilenetv2", "shufflenetv2")
        for seed, gain in enumerate(gains)
        for method, accuracy in (("ce", 0.5), ("drg+dsr-fade", 0.5 + gain))
    ]
    planned(monkeypatch, 12)
    merge_lines(tmp_path / "it.jsonl", [line for line in lines if line["seed"] < 12])
    answer = block_text("answer", tmp_path)
    for text in (answer, block_text("it", tmp_path), page_texts(tmp_path)["it.md"]):
        said = " ".join(str(text).split())
        assert f"48 of 48 {COMPARED} They are of 12 seeds, and the first pairs ask for 14" in said
        assert "over cross-entropy" not in said
        assert "50.00" not in said
    assert draw_plots(tmp_path) == []
    planned(monkeypatch, 14)
    assert f"48 of 56 {COMPARED}" in str(block_text("it", tmp_path))
    merge_lines(tmp_path / "it.jsonl", lines)
    assert "50.00" in str(block_text("it", tmp_path))
    assert "its first pairs ask for 14 seeds" in page_texts(tmp_path)["it.md"]


def test_the_page_says_how_many_seeds_its_first_pairs_ask_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(monkeypatch, 7)
    lines = [
        line(method, seed, accuracy, arch=arch, **STATED)
        for arch in ("mobilenetv2", "shufflenetv2")
        for method, accuracy in (("ce", 0.5), ("drg+dsr-fade", 0.6))
        for seed in range(6)
    ]
    merge_lines(tmp_path / "it.jsonl", lines[:-1])
    assert "ask for" not in page_texts(tmp_path)["it.md"]
    merge_lines(tmp_path / "it.jsonl", lines[-1:])
    page = page_texts(tmp_path)["it.md"]
    assert f"24 of 28 {COMPARED}" in page
    assert "By the plan's rule, its first pairs ask for 12 seeds." in page
