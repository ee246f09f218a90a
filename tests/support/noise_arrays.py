"""A data folder of arrays whose pictures are noise."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike


def write_noise_arrays(
    folder: Path,
    counts: Mapping[str, int],
    *,
    size: int,
    classes: int,
    labels: DTypeLike = np.int64,
) -> Path:
    """Makes `folder` with `{split}_images.npy` and `{split}_labels.npy`, and returns it.

    Args:
        folder: which is not there yet.
        counts: how many pictures each split has; their labels go round the classes.
        size: side of the pictures in pixels.
        classes: how many there are.
        labels: the type of the labels.
    """
    folder.mkdir()
    generator = np.random.default_rng(0)
    for split, count in counts.items():
        pictures = generator.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        np.save(folder / f"{split}_images.npy", pictures)
        np.save(folder / f"{split}_labels.npy", np.arange(count, dtype=labels) % classes)
    return folder
