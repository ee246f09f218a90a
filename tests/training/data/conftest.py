"""A cache of its own for each test, and small pictures to fill folders with."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WriteImage = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("SKD_EDGE_CACHE", str(folder))
    return folder


@pytest.fixture
def write_image() -> WriteImage:
    """`write_image(path, width=40, height=30, seed=0)` writes a picture of blurred noise."""

    def write(path: Path, *, width: int = 40, height: int = 30, seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((width, height)).save(path)
        return path

    return write


@pytest.fixture
def class_tree(tmp_path: Path, write_image: WriteImage) -> Path:
    """Three classes with five pictures each, in one folder."""
    root = tmp_path / "pets"
    for label, name in enumerate(("cat", "dog", "eel")):
        for number in range(5):
            write_image(root / name / f"{number}.png", seed=10 * label + number)
    return root
