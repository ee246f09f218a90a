"""Fixtures of the tests of minutes on a GPU."""

from pathlib import Path

import numpy as np
import pytest

from training.data import published_arrays


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """A data folder of noise, which compresses worst, and of plain pictures."""
    folder = tmp_path / "arrays"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for which, count in (("train", 12), ("test", 5)):
        images = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        images[0] = 7
        np.save(folder / f"{which}_images.npy", images)
        np.save(folder / f"{which}_labels.npy", np.arange(count) % 2)
    (folder / "classes.txt").write_text("a\nb\n")
    return folder


@pytest.fixture
def arrays_of_100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures of noise in 100 classes, which stand for the published ones."""
    folder = tmp_path / "arrays"
    folder.mkdir()
    generator = np.random.default_rng(0)
    names = tuple(f"kind {number}" for number in range(100))
    splits = {}
    for which in ("train", "test"):
        images = generator.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
        np.save(folder / f"{which}_images.npy", images)
        np.save(folder / f"{which}_labels.npy", np.arange(100))
        splits[which] = published_arrays.facts_of(images, np.arange(100), 100)
    (folder / "classes.txt").write_text("\n".join(names))
    facts = published_arrays.ArrayFacts(names, splits)
    monkeypatch.setitem(published_arrays.ARRAY_FACTS, "cifar100", facts)
    return folder
