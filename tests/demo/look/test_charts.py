"""Charts, read as SVG and HTML."""

import re

import numpy as np
import pytest

from demo.look.charts import Bar, Line, bar_chart, line_chart, nice_ticks


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
