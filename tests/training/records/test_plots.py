"""A run's pictures: many classes, odd names, the terms of every method, no display."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.records.plots import plot_confusion, plot_curves


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
def test_curves_show_the_terms_of_every_method(tmp_path: Path) -> None:
    lines = [{"epoch": 1, "progressive": 1.0, "top1": 0.5, "top5": 0.9}]
    path = tmp_path / "curves.png"
    plot_curves(path, lines, terms=("progressive",), title="test")


def test_curves_need_no_display(tmp_path: Path) -> None:
    lines = [
        {"epoch": epoch, "cross_entropy": 1 / epoch, "top1": 0.5, "top5": 0.9}
        for epoch in (1, 2, 3)
    ]
    path = tmp_path / "curves.png"
    plot_curves(path, lines, terms=("cross_entropy",), title="test")
    assert (tmp_path / "curves.png").stat().st_size > 1000
