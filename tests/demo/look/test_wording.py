"""Numbers and names as the page writes them."""

import pytest

from demo.look import wording


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.0 %"),
        (0.0001, "< 0.1 %"),
        (0.0006, "0.1 %"),
        (0.5, "50.0 %"),
        (0.9994, "99.9 %"),
        (0.9999, "> 99.9 %"),
        (1.0, "100.0 %"),
    ],
)
def test_a_probability_is_never_rounded_to_certainty(value: float, shown: str) -> None:
    assert wording.percent(value).replace(wording.NARROW_SPACE, " ") == shown


@pytest.mark.parametrize(
    ("write", "value", "shown"),
    [
        (wording.milliseconds, 0, "0 ms"),
        (wording.milliseconds, 0.0314, "0.03 ms"),
        (wording.milliseconds, 5.678, "5.68 ms"),
        (wording.milliseconds, 56.78, "56.8 ms"),
        (wording.milliseconds, 567.8, "568 ms"),
        (wording.milliseconds, 5678, "5.68 s"),
        (wording.count, 12, "12"),
        (wording.count, 2_236_682, "2.24 M"),
        (wording.count, 87_976_448, "88.0 M"),
        (wording.file_size, 8_913_979, "8.91 MB"),
        (wording.points, 2.2e-6, "< 0.001 points"),
        (wording.points, 0.0029, "0.29 points"),
        (wording.points, 0.14, "14 points"),
        (wording.points, 0.0994, "9.9 points"),
        (wording.points, 0.0996, "10 points"),
        (wording.points, 0.999, "100 points"),
        (wording.points, 1.0, "100 points"),
    ],
)
def test_numbers_have_three_digits_at_most(write, value: float, shown: str) -> None:
    assert write(value).replace(wording.NARROW_SPACE, " ") == shown


def test_a_teacher_is_told_beside_the_terms() -> None:
    assert wording.terms(["teacher"]) == "plain cross-entropy, taught by another network"
    both = wording.terms(["drg", "teacher"])
    assert both == f"{wording.terms(['drg'])}, taught by another network"
