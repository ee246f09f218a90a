"""Fixtures of the tests of minutes on a GPU."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.noise_arrays import write_noise_arrays
from training.data import published_arrays


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """A data folder of noise, which compresses worst, and of plain pictures."""
    counts = {"train": 12, "test": 5}
    folder = write_noise_arrays(tmp_path / "arrays", counts, size=32, classes=2)
    for file in folder.glob("*_images.npy"):
        images = np.load(file)
        images[0] = 7
        np.save(file, images)
    (folder / "classes.txt").write_text("a\nb\n")
    return folder


@pytest.fixture
def arrays_of_100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures of noise in 100 classes, which stand for the published ones."""
    counts = {"train": 100, "test": 100}
    folder = write_noise_arrays(tmp_path / "arrays", counts, size=32, classes=100)
    names = tuple(f"kind {number}" for number in range(100))
    splits = {
        split: published_arrays.facts_of(
            np.load(folder / f"{split}_images.npy"), np.arange(100), 100
        )
        for split in counts
    }
    (folder / "classes.txt").write_text("\n".join(names))
    facts = published_arrays.ArrayFacts(names, splits)
    monkeypatch.setitem(published_arrays.ARRAY_FACTS, "cifar100", facts)
    return folder
