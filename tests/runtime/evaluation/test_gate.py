"""The gate lets a file through if it answers like the student, and no other file."""

import msgspec
import numpy as np
import pytest

from runtime.evaluation.gate import (
    CLASS_LEVEL,
    CLASS_LOSS,
    at_export,
    compare,
    complaint,
    fewest_too_many,
    unjudged_words,
)
from runtime.model.bundle import read_card
from runtime.model.card import ClassChange, ModelFile, Parity

SAME = Parity(images=1000, top1=0.9, reference_top1=0.9, agreement=1.0, max_difference=0.0)


def parity(**changes: float) -> Parity:
    return msgspec.structs.replace(SAME, **changes)


@pytest.mark.parametrize(
    ("precision", "changes", "words"),
    [
        ("fp32", {"max_difference": 1.1e-4}, "probability differs by 1.1e-04 (allowed 1e-04)"),
        ("fp32", {"agreement": 0.9985}, "99.85% of 1000 images (needed 99.9%)"),
        ("fp16", {"top1": 0.897}, "top-1 89.70% is 0.30 points below the student's 90.00%"),
        ("int8", {"top1": 0.889}, "(allowed 1.0)"),
        ("int8-cpu", {"top1": 0.889}, "(allowed 1.0)"),
    ],
)
def test_just_outside_is_refused_with_the_figure(precision, changes, words) -> None:
    found = complaint(parity(**changes), precision)
    assert found is not None
    assert words in found


@pytest.mark.parametrize(
    ("precision", "changes"),
    [
        ("fp32", {"max_difference": 1e-4, "agreement": 0.999}),
        ("fp16", {"top1": 0.898, "agreement": 0.95, "max_difference": 0.5}),
        ("int8", {"top1": 0.89, "agreement": 0.9, "max_difference": 0.9}),
        ("int8-cpu", {"top1": 0.89}),
        ("fp16", {"top1": 1.0}),
        # Of 50 images a single one is 2 %, more than every tolerance: one image is allowed.
        ("fp32", {"images": 50, "agreement": 0.98}),
        ("fp16", {"images": 50, "top1": 0.88}),
        ("int8", {"images": 50, "top1": 0.88}),
    ],
)
def test_just_inside_passes(precision, changes) -> None:
    assert complaint(parity(**changes), precision) is None


def test_two_of_fifty_images_are_too_many() -> None:
    assert complaint(parity(images=50, top1=0.86), "int8") is not None
    assert complaint(parity(images=50, agreement=0.96), "fp32") is not None


def test_comparison_counts() -> None:
    reference = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]], np.float32)
    found = np.array([[0.8, 0.2], [0.2, 0.8], [0.4, 0.6], [0.3, 0.7]], np.float32)
    assert compare(found, reference, np.array([0, 1, 0, 0]), ("a", "b")) == Parity(
        images=4,
        top1=0.5,
        reference_top1=0.75,
        agreement=0.75,
        max_difference=pytest.approx(0.2, abs=1e-6),
        worst_class=ClassChange(
            name="a",
            recall_before=pytest.approx(2 / 3),
            recall_after=pytest.approx(1 / 3),
            images=3,
        ),
        unjudged_classes=2,
    )


def test_not_a_number_is_never_right() -> None:
    reference = np.eye(4, dtype=np.float32)
    found = np.full((4, 4), np.nan, np.float32)
    nothing = compare(found, reference, np.arange(4), tuple("abcd"))
    assert (nothing.top1, nothing.agreement, nothing.max_difference) == (0.0, 0.0, 1.0)
    for precision in ("fp32", "fp16", "int8", "int8-cpu"):
        assert complaint(nothing, precision) is not None


# --- classes ---


def answers(predicted: np.ndarray, classes: int) -> np.ndarray:
    """Probabilities whose first classes are `predicted`."""
    return np.eye(classes, dtype=np.float32)[predicted]


def test_so_many_lost_images_are_too_many_by_scipy() -> None:
    """The smallest number whose binomial tail is at most the level, for every size of a class."""
    stats = pytest.importorskip("scipy.stats")
    assert fewest_too_many(10) == 7
    for images in (6, 7, 10, 20, 50, 100, 1000, 5000):
        count = fewest_too_many(images)
        assert stats.binom.sf(count - 1, images, CLASS_LOSS) <= CLASS_LEVEL
        assert stats.binom.sf(count - 2, images, CLASS_LOSS) > CLASS_LEVEL


def test_flips_of_two_per_cent_alarm_at_most_once_in_a_thousand_files() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(100), 10)
    names = tuple(map(str, range(100)))
    alarms = 0
    for _ in range(1000):
        right = generator.random(1000) < 0.9
        before = np.where(right, labels, (labels + 1) % 100)
        flipped = generator.random(1000) < 0.02
        after = np.where(flipped, (before + 7) % 100, before)
        parity = compare(answers(after, 100), answers(before, 100), labels, names)
        alarms += bool(parity.lost_classes)
    assert alarms <= 1


@pytest.mark.parametrize("recall", [0.8, 1.0])
def test_a_class_that_is_lost_is_refused_though_top1_is_within_a_point(recall: float) -> None:
    labels = np.repeat(np.arange(100), 10)
    names = tuple(f"class {number}" for number in range(100))
    before = labels.copy()
    before[420 : 420 + round(10 * (1 - recall))] = 0
    after = before.copy()
    after[labels == 42] = 0
    found = compare(answers(after, 100), answers(before, 100), labels, names)
    passed = msgspec.structs.replace(found, lost_classes=())
    assert complaint(passed, "int8") is None  # all else is inside the gate
    assert found.lost_classes == ("class 42",)
    assert found.worst_class == ClassChange(
        name="class 42", recall_before=recall, recall_after=0.0, images=10
    )
    words = complaint(found, "int8")
    assert words is not None
    assert f"of the 10 images of 'class 42' it finds 0%, the student {recall:.0%}" in words


def test_classes_with_few_images_are_counted_and_not_judged() -> None:
    labels = np.array([0] * 100 + [1] * 5 + [2] * 6)
    after = np.where(labels > 0, 0, labels)
    found = compare(answers(after, 3), answers(labels, 3), labels, ("many", "five", "six"))
    assert found.lost_classes == ("six",)
    assert found.unjudged_classes == 1
    assert unjudged_words(found).startswith("1 class has fewer than 6 test images: too few to")


def test_of_many_lost_classes_three_are_named() -> None:
    labels = np.repeat(np.arange(8), 10)
    found = compare(answers(labels * 0, 8), answers(labels, 8), labels, tuple("abcdefgh"))
    words = complaint(found, "int8")
    assert words is not None
    assert "it loses the classes 'b', 'c', 'd' and 4 more: of the 10 images of 'b'" in words


def test_worse_images_than_the_whole_split_are_no_fault_of_the_file() -> None:
    """In the split, 30 of 10,000 answers are lost, all of a rare class that is half of the part."""
    labels = np.repeat([0, 1], [9500, 500])
    exact = np.eye(2, dtype=np.float32)[labels]
    found = exact.copy()
    found[-30:] = found[-30:, ::-1]
    part = np.r_[0:500, 9500:10_000]
    assert complaint(compare(found, exact, labels, "ab"), "int8") is None
    exported = compare(found[part], exact[part], labels[part], "ab")
    assert complaint(exported, "int8") is not None
    assert complaint(exported, "int8", exported=exported) is None

    def with_lost(more: int) -> str | None:
        worse = found.copy()
        worse[-30 - more : -30] = worse[-30 - more : -30, ::-1]
        again = compare(worse[part], exact[part], labels[part], "ab")
        return complaint(again, "int8", exported=exported)

    assert with_lost(10) is None
    words = with_lost(11)
    assert words == "top-1 95.90% is 1.10 points below its own at export, 97.00% (allowed 1.0)"


def test_a_file_that_was_better_than_the_student_at_export_need_not_be() -> None:
    assert complaint(parity(top1=0.891), "int8", exported=parity(top1=0.92)) is None
    words = complaint(parity(top1=0.889), "int8", exported=parity(top1=0.92))
    assert words is not None
    assert "below the student's 90.00%" in words


def test_agreement_and_lost_classes_count_from_the_export() -> None:
    exported = parity(agreement=0.997, lost_classes=("a",))
    same = parity(agreement=0.996, lost_classes=("a",))
    assert complaint(same, "fp32") is not None
    assert complaint(same, "fp32", exported=exported) is None
    words = complaint(parity(agreement=0.995), "fp32", exported=exported)
    assert (
        words
        == "it agrees with the student on 99.50% of 1000 images, at export 99.70% (needed 99.6%)"
    )
    words = complaint(parity(lost_classes=("a", "b")), "fp32", exported=exported)
    assert words is not None
    assert words.startswith("it loses the class 'b' (")


def test_a_file_that_was_kept_in_spite_of_the_gate_is_measured_by_the_student(toy_bundle) -> None:
    card = read_card(toy_bundle)

    def record(top1: float) -> ModelFile:
        return msgspec.structs.replace(
            card.files[1], parity=parity(top1=top1), holdout_parity=parity(top1=0.7)
        )

    for top1, found in ((0.899, parity(top1=0.7)), (0.8, None)):
        file = record(top1)
        assert at_export(msgspec.structs.replace(card, files=(file,)), file) == found
