"""Draws the test images that a bundle holds."""

import io

import numpy as np

from runtime.model.holdout import Labelled

MAX_IMAGES = 1000
_MAX_BYTES = 64 << 20  # 445 images of 224 px: a bundle has to fit on a device
_SEED = 0


def holdout_bytes(test: Labelled) -> bytes:
    """The content of `holdout.npz`: a part of the test split, drawn at random.

    A split sorted by class would otherwise give the first classes only.
    """
    count = min(len(test.images), MAX_IMAGES, _MAX_BYTES // test.images[0].nbytes)
    rows = np.sort(np.random.default_rng(_SEED).permutation(len(test.images))[:count])
    file = io.BytesIO()
    np.savez_compressed(
        file,
        images=test.images[rows],
        labels=test.labels[rows],
        probabilities=test.probabilities[rows],
    )
    return file.getvalue()
