"""A run's pictures: many classes, odd names, the terms of every method, no display."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context
from PIL import Image

from training.records import plots
from training.records.plots import plot_confusion, plot_curves

HISTORY = [
    {"epoch": epoch, "cross_entropy": 1 / epoch, "top1": 0.5, "top5": 0.9} for epoch in (1, 2, 3)
]


def test_a_hundred_classes_can_be_plotted(tmp_path: Path) -> None:
    names = [f"class number {index}" for index in range(100)]
    path = tmp_path / "confusion.png"
    plot_confusion(path, np.eye(100, dtype=np.int64), names, title="test")
    with Image.open(path) as image:
        assert min(image.size) > 1500  # every class name has its line of at least 8 pixels


def test_class_names_are_no_formulas(tmp_path: Path) -> None:
    counts = np.eye(3, dtype=np.int64)
    path = tmp_path / "confusion.png"
    plot_confusion(path, counts, ("5$ or 10$", "$x_{$", r"a$\no$"), title="test")


@pytest.mark.filterwarnings("error")
def test_letters_that_no_font_has_are_no_warnings(tmp_path: Path) -> None:
    """CJK, Thai, a rare ideograph that hardly any font has, and an emoji."""
    names = ("猫と犬", "แมว", "\U0002f9f4", "🐈", "кошка")
    path = tmp_path / "confusion.png"
    plot_confusion(path, np.eye(5, dtype=np.int64), names, title="猫")
    plot_curves(tmp_path / "curves.png", HISTORY, terms=("cross_entropy",), title="猫")


def test_letters_are_drawn_with_a_font_that_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A font of this list takes the place of the usual one where that has no such letter."""
    letter = "\u2a0c"  # a quadruple integral, which DejaVu Sans has and STIX Size 1 has not
    own = plots_of(tmp_path, letter)
    with rc_context({"font.family": ["STIXSizeOneSym"]}):
        missing = plots_of(tmp_path, letter)
        monkeypatch.setattr(plots, "_FALLBACKS", ("No Such Font", "DejaVu Sans"))
        mended = plots_of(tmp_path, letter)
    assert len({own, missing, mended}) == 3


def plots_of(folder: Path, name: str) -> bytes:
    plot_confusion(folder / "one.png", np.eye(1, dtype=np.int64), (name,), title="")
    return (folder / "one.png").read_bytes()


@pytest.mark.filterwarnings("error")
def test_curves_show_the_terms_of_every_method(tmp_path: Path) -> None:
    lines = [{"epoch": 1, "progressive": 1.0, "top1": 0.5, "top5": 0.9}]
    path = tmp_path / "curves.png"
    plot_curves(path, lines, terms=("progressive",), title="test")


def test_curves_need_no_display(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    plot_curves(path, HISTORY, terms=("cross_entropy",), title="test")
    assert (tmp_path / "curves.png").stat().st_size > 1000
