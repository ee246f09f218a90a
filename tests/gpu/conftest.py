"""Fixtures of the tests of minutes on a GPU."""

from pathlib import Path

import numpy as np
import pytest


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
