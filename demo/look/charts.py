"""Charts as inline SVG. They need no script, font or file, and their colours follow the theme."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from demo.look.markup import text

_WIDTH, _HEIGHT = 480, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 30
_TICKS = 4


@dataclass(frozen=True)
class Line:
    """One line of a chart: its name, and points (x, y) with ascending x."""

    name: str
    points: Sequence[tuple[float, float]]


def nice_ticks(low: float, high: float, wanted: int = _TICKS) -> list[float]:
    """About `wanted` round numbers whose first and last enclose [low, high]."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / wanted
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def line_chart(
    lines: Sequence[Line], *, title: str, x_name: str, words: Callable[[float], str]
) -> str:
    """Lines over a common x axis.

    Args:
        lines: at least one, with at least one point.
        title: what stands above the chart.
        x_name: what x counts, such as "epoch".
        words: writes a value of y as text.
    """
    points = [point for line in lines for point in line.points]
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    ticks = nice_ticks(min(y for _, y in points), max(y for _, y in points))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / ((x_high - x_low) or 1)
        up = (y - ticks[0]) / (ticks[-1] - ticks[0])
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
        )

    grid = "".join(
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text(words(tick))}</text>'
        for tick in ticks
        for _, y in [place(x_low, tick)]
    )
    ends = "".join(
        f'<text x="{place(x, ticks[0])[0]:.1f}" y="{_HEIGHT - 8}" text-anchor="{anchor}">'
        f"{text(f'{x_name} {x:g}')}</text>"
        for x, anchor in ((x_low, "start"), (x_high, "end"))[: 1 if x_low == x_high else 2]
    )
    drawn = "".join(_draw_line(line, place, n, words, x_name) for n, line in enumerate(lines))
    return (
        f'<figure class="chart"><figcaption>{text(title)}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{text(title)}">'
        f"{grid}{ends}{drawn}</svg></figure>"
    )


def _draw_line(
    line: Line,
    place: Callable[[float, float], tuple[float, float]],
    number: int,
    words: Callable[[float], str],
    x_name: str,
) -> str:
    placed = [place(x, y) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"><title>'
        f"{text(f'{x_name} {point[0]:g}: {words(point[1])}')}</title></circle>"
        for (x, y), point in zip(placed, line.points, strict=True)
    )
    return f'<g class="line line-{number}"><polyline points="{path}"/>{dots}</g>'


@dataclass(frozen=True)
class Bar:
    """One bar of a chart.

    Attributes:
        name: what stands before it.
        value: its length, 0 or more.
        words: the value as people read it.
        note: what stands behind the value.
        marked: whether it is drawn in the accent colour.
    """

    name: str
    value: float
    words: str
    note: str = ""
    marked: bool = False


def bar_chart(bars: Sequence[Bar], *, title: str) -> str:
    """Horizontal bars from zero, scaled so that the largest fills the width."""
    largest = max((bar.value for bar in bars), default=0) or 1
    rows = "".join(
        f'<li class="{"marked" if bar.marked else ""}"><span class="name">{text(bar.name)}</span>'
        f'<span class="track"><span class="fill" style="width:{100 * bar.value / largest:.2f}%">'
        f'</span></span><span class="value">{text(bar.words)}</span>'
        + (f'<span class="note">{text(bar.note)}</span>' if bar.note else "")
        + "</li>"
        for bar in bars
    )
    return (
        f'<figure class="chart"><figcaption>{text(title)}</figcaption>'
        f'<ol class="bars wide">{rows}</ol></figure>'
    )
