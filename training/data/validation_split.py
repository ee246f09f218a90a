"""Which training images are held out to calibrate and to choose on."""

import numpy as np
from numpy.typing import NDArray

_SEED = 0  # the same images whatever the run's seed: seeds are compared on equal terms


def split_validation(
    labels: NDArray[np.int64], fraction: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers (trained on, held out): of each class the rounded `fraction`, never its last."""
    generator = np.random.default_rng(_SEED)
    held_out = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(round(fraction * len(rows)), len(rows) - 1)
        held_out.append(generator.permutation(rows)[:count])
    validation = np.sort(np.concatenate(held_out)).astype(np.int64)
    return np.setdiff1d(np.arange(len(labels), dtype=np.int64), validation), validation
