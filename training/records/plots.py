"""A run's pictures: `curves.png` and `confusion.png`."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.base.files import atomic_path

CURVES = "curves.png"
CONFUSION = "confusion.png"
# Fonts with the letters of Chinese, Japanese, Korean and other scripts, which matplotlib's own font
# lacks, on Linux, Windows and macOS.
_FALLBACKS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK TC", "Noto Sans CJK KR"),
    *("Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback"),
    *("Noto Sans SC", "Noto Sans JP", "Noto Sans KR", "IPAGothic", "TakaoGothic", "NanumGothic"),
    *("Microsoft YaHei", "SimHei", "Yu Gothic", "Meiryo", "MS Gothic", "Malgun Gothic"),
    *("PingFang SC", "Hiragino Sans", "Heiti TC", "Apple SD Gothic Neo", "Arial Unicode MS"),
    *("Noto Sans Thai", "Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Tamil"),
    *("Leelawadee UI", "Nirmala UI", "Noto Emoji", "Segoe UI Emoji", "Unifont"),
)
_ABBREVIATIONS = ("drg", "dsr")
_MAX_NUMBERED = 20  # classes up to which each cell shows its count
_MAX_NAMED = 120  # classes up to which every row has its name


def plot_curves(
    path: Path, history: Sequence[dict[str, Any]], *, terms: Sequence[str], title: str
) -> None:
    """Writes a PNG with the loss terms and the test accuracy over the epochs.

    Args:
        path: of the file.
        history: the journal's lines.
        terms: the keys of the lines that are loss terms.
        title: above both plots.
    """
    figure, (losses, accuracy) = figure_of(figsize=(11, 4), ncols=2)
    epochs = [line["epoch"] for line in history]
    for term in terms:
        values = [line[term] for line in history]
        losses.plot(epochs, values, label=_term_label(term), marker=".")
    losses.set(xlabel="epoch", ylabel="training loss", yscale="log")
    losses.legend()
    for key, label in (("top1", "top-1"), ("top5", "top-5")):
        accuracy.plot(epochs, [100 * line[key] for line in history], label=label, marker=".")
    accuracy.set(xlabel="epoch", ylabel="test accuracy (%)")
    accuracy.legend(loc="lower right")
    figure.suptitle(title)
    save_figure(figure, path)


def plot_confusion(
    path: Path, counts: NDArray[np.int64], class_names: Sequence[str], *, title: str
) -> None:
    """Writes a PNG of a confusion matrix: rows are true classes, columns are predicted ones.

    Args:
        path: of the file.
        counts: int64 (K, K). A colour shows the count's share of its row.
        class_names: K names.
        title: above the plot.
    """
    size = len(class_names)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    inches = float(np.clip(size * 0.17, 6, 24))
    figure, (axes,) = figure_of(figsize=(inches + 2, inches), ncols=1)
    picture = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    figure.colorbar(picture, ax=axes, shrink=0.8, label="share of the true class")
    step = 1 if size <= _MAX_NAMED else -(-size // _MAX_NAMED)
    ticks = range(0, size, step)
    names = [_shortened(class_names[tick]) for tick in ticks]
    font = 9 if size <= _MAX_NUMBERED else 6
    axes.set_xticks(ticks, names, rotation=90, fontsize=font)
    axes.set_yticks(ticks, names, fontsize=font)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    if size <= _MAX_NUMBERED:
        for row, column in np.argwhere(counts > 0):
            colour = "white" if shares[row, column] > 0.5 else "black"  # noqa: PLR2004
            axes.text(
                column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=8
            )
    save_figure(figure, path)


def figure_of(*, figsize: tuple[float, float], ncols: int) -> tuple[Any, list[Any]]:
    """A figure of `figsize` inches and its `ncols` axes, side by side.

    Made with matplotlib's object interface, which needs no display and has no global state.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=figsize, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(np.atleast_1d(figure.subplots(ncols=ncols)))


def _term_label(term: str) -> str:
    if term in _ABBREVIATIONS:
        return term.upper()
    return term.replace("_", " ").replace("cross entropy", "cross-entropy")


def save_figure(figure: Any, path: Path) -> None:
    """Writes the figure to `path` as a PNG, or leaves the former file as it was.

    Letters that no known font of this machine has are drawn as boxes.
    """
    from matplotlib.text import Text

    families = _families()
    for text in figure.findobj(Text):
        text.set_fontfamily(families)
    with atomic_path(path) as temporary, warnings.catch_warnings():
        # Each missing letter would be a warning with lines of source code among the results.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(temporary, format="png", dpi=110)


def _families() -> list[str]:
    """The usual font, and those of this machine whose letters take the place of missing ones."""
    from matplotlib import rcParams
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return [*rcParams["font.family"], *(name for name in _FALLBACKS if name in installed)]


def _shortened(name: str, limit: int = 24) -> str:
    short = name if len(name) <= limit else name[: limit - 1] + "…"
    return short.replace("$", r"\$")  # matplotlib reads text between two of them as a formula
