"""The images of `holdout.npz`: which test images they are, and what a file answers to them."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.evaluation import gate
from runtime.model.card import Parity
from runtime.model.holdout import Labelled

MAX_HOLDOUT_IMAGES = 1000
_MAX_HOLDOUT_BYTES = 64 << 20  # 445 images of 224 px: a bundle has to fit on a device
_SEED = 0


def drawn(test: Labelled) -> Labelled:
    """The test images that a bundle carries: at most 1,000 images and 64 MiB.

    They are drawn class by class, so that the gate can judge as many classes as there is room for.
    """
    rows = _rows(test)
    return Labelled(test.images[rows], test.labels[rows], test.probabilities[rows])


def holdout_bytes(test: Labelled) -> bytes:
    """The content of `holdout.npz`: what is drawn of `test`, with labels and probabilities."""
    file = io.BytesIO()
    np.savez_compressed(file, **vars(drawn(test)))
    return file.getvalue()


def compared(
    probabilities: NDArray[np.float32], test: Labelled, class_names: Sequence[str]
) -> tuple[Parity, Parity]:
    """Compares a file's answers with torch's: on all of `test`, and on what a bundle carries of it.

    `probabilities` are the file's for the images of `test`, float32 (N, K).
    """
    rows = _rows(test)
    whole = gate.compare(probabilities, test.probabilities, test.labels, class_names)
    part = gate.compare(
        probabilities[rows], test.probabilities[rows], test.labels[rows], class_names
    )
    return whole, part


def _rows(test: Labelled) -> NDArray[np.int64]:
    count = min(len(test.images), MAX_HOLDOUT_IMAGES, _MAX_HOLDOUT_BYTES // test.images[0].nbytes)
    return _drawn_by_class(test.labels, count)


def _drawn_by_class(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Rows of `count` images: one of each class in turn, at random, until there are enough."""
    order = np.random.default_rng(_SEED).permutation(len(labels))
    turns = np.empty(len(labels), dtype=np.int64)  # the turn in which a row would be drawn
    for label in np.unique(labels):
        own = order[labels[order] == label]
        turns[own] = np.arange(len(own))
    drawn = order[np.argsort(turns[order], kind="stable")[:count]]
    return np.sort(drawn)
