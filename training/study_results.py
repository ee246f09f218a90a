"""What a study found: lines, a table of means, a plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from runtime.errors import UserError
from runtime.files import atomic_path, write_atomic
from training.plots import figure_of

Line = dict[str, Any]
BASELINE = "ce"
_IDENTITY = ("study", "method", "data", "arch", "width", "image_size", "seed", "recipe")


def merge_lines(path: Path, lines: Sequence[Line]) -> None:
    """Adds `lines` to the JSON lines of `path`; a line of the same run is replaced."""
    former = read_lines(path)
    new = [_identity(line) for line in lines]
    kept = [line for line in former if _identity(line) not in new]
    content = b"".join(msgspec.json.encode(line) + b"\n" for line in [*kept, *lines])
    write_atomic(path, content)


def read_lines(path: Path) -> list[Line]:
    """The JSON lines of `path`, none if it does not exist; UserError for one that is broken."""
    if not path.exists():
        return []
    try:
        return [
            msgspec.json.decode(line, type=Line) for line in path.read_bytes().splitlines() if line
        ]
    except msgspec.DecodeError as error:
        raise UserError(f"{path} holds a line that is not a JSON object ({error})") from error


def study_table(lines: Sequence[Line]) -> str:
    """Means and standard deviations over seeds as a Markdown table, gains over the baseline.

    A gain is the mean of the differences between runs of one seed.
    """
    rows = ["| method | runs | top-1 % | over CE | top-5 % | ECE % | s |", "|" + "---|" * 7]
    for method, own in _by_method(lines).items():
        top1, top5, ece = (
            _mean_and_deviation([100 * line[key] for line in own])
            for key in ("top1", "top5", "ece")
        )
        seconds = np.mean([line["seconds"] for line in own])
        gain = _gain(own, _by_method(lines).get(BASELINE, []))
        rows.append(f"| {method} | {len(own)} | {top1} | {gain} | {top5} | {ece} | {seconds:.0f} |")
    return "\n".join(rows)


def plot_study(path: Path, lines: Sequence[Line]) -> None:
    """Test accuracy of every run as a point, the mean of each method as a bar of its width."""
    figure, (axes,) = figure_of(figsize=(7, 4), ncols=1)
    methods = _by_method(lines)
    for position, own in enumerate(methods.values()):
        values = [100 * line["top1"] for line in own]
        axes.plot([position] * len(values), values, "o", color="tab:blue", alpha=0.6)
        axes.hlines(np.mean(values), position - 0.3, position + 0.3, color="black")
    axes.set_xticks(range(len(methods)), list(methods))
    first = lines[0]
    title = f"{first['arch']} on {first['data']}, {first['epochs']} epochs"
    axes.set(ylabel="test top-1 (%)", title=title)
    axes.grid(axis="y", alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _identity(line: Line) -> tuple[object, ...]:
    return tuple(line.get(key) for key in _IDENTITY)


def _by_method(lines: Sequence[Line]) -> dict[str, list[Line]]:
    methods: dict[str, list[Line]] = {}
    for line in lines:
        methods.setdefault(line["method"], []).append(line)
    return methods


def _mean_and_deviation(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


def _gain(own: Sequence[Line], baseline: Sequence[Line]) -> str:
    reference = {line["seed"]: line["top1"] for line in baseline}
    gains = [
        100 * (line["top1"] - reference[line["seed"]]) for line in own if line["seed"] in reference
    ]
    if not gains or own is baseline or own[0]["method"] == BASELINE:
        return ""
    return f"{np.mean(gains):+.2f}"
