"""What the page says and draws, without a browser."""

import re

import numpy as np
import pytest

from demo.look import wording
from demo.look.charts import Bar, Line, bar_chart, line_chart, nice_ticks
from demo.look.markup import LOSSLESS, html_table, notice, picture_uri, text


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


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.99), (0.55, 4.57), (3, 3), (0, 0), (980, 1020)])
def test_ticks_are_round_and_enclose_the_values(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low <= high <= ticks[-1]
    assert 2 <= len(ticks) <= 7
    steps = np.diff(ticks)
    assert np.allclose(steps, steps[0])
    mantissa = steps[0] / 10 ** np.floor(np.log10(steps[0]))
    assert min(abs(mantissa - round_one) for round_one in (1, 2, 2.5, 5, 10)) < 1e-6


def test_a_line_stays_in_its_frame_and_a_point_says_its_value() -> None:
    line = Line("loss", [(1, 4.5), (2, 0.5)])
    svg = line_chart([line], title="Loss <&>", x_name="epoch", words=lambda y: f"{y:g}")
    numbers = re.search(r'points="([^"]+)"', svg)[1]
    points = [tuple(map(float, pair.split(","))) for pair in numbers.split()]
    assert all(0 < x < 480 and 0 < y < 220 for x, y in points)
    assert points[0][0] < points[1][0]
    assert points[0][1] < points[1][1]  # SVG counts downwards: the loss falls
    assert "<title>epoch 2: 0.5</title>" in svg
    assert "Loss &lt;&amp;&gt;" in svg


def test_one_epoch_is_a_chart_too() -> None:
    svg = line_chart([Line("a", [(1, 0.5)])], title="t", x_name="epoch", words=str)
    assert svg.count("<circle") == 1
    assert svg.count("epoch 1<") == 1


def test_bars_are_scaled_by_the_largest() -> None:
    html = bar_chart([Bar("a", 2, "2 ms"), Bar("<b>", 4, "4 ms", marked=True)], title="t")
    assert "width:50.00%" in html
    assert "width:100.00%" in html
    assert "&lt;b&gt;" in html


def test_texts_are_escaped_everywhere() -> None:
    hostile = "\"><script>alert('x')</script>"
    for html in (
        notice(hostile, hostile),
        text(hostile),
        html_table([hostile], [], caption=hostile),
    ):
        assert "<script" not in html
        assert '"><' not in html.replace('"><t', "").replace('"><s', "").replace('"><p', "")


def test_a_small_picture_is_kept_exactly() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert picture_uri(pixels).startswith("data:image/png;base64,")
    large = np.zeros((8, LOSSLESS + 1, 3), np.uint8)
    assert picture_uri(large).startswith("data:image/webp;base64,")
    assert picture_uri(large, quality=None).startswith("data:image/png;base64,")
