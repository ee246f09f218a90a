"""Symmetric label noise: some training labels replaced by another class."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import UserError
from training.data import Dataset

_STREAM = 2  # sets these draws apart from those of orders and partners with the same seed


def with_label_noise(
    dataset: Dataset, rows: NDArray[np.int64], *, share: float, seed: int
) -> Dataset:
    """`dataset` with the rounded `share` of the training `rows` under a wrong label.

    A wrong label is drawn uniformly from the other classes; labels of training images that are not
    in `rows` (those held out) and of the test split stay as they are.
    """
    if share == 0:
        return dataset
    if dataset.num_classes == 1:
        raise UserError(f"label_noise {share}: {dataset.name} has one class, expected at least 2")
    generator = np.random.default_rng((seed, 0, _STREAM))
    chosen = generator.permutation(rows)[: round(share * len(rows))]
    steps = generator.integers(1, dataset.num_classes, len(chosen))  # never back to the true class
    labels = np.array(dataset.train_labels)
    labels[chosen] = (labels[chosen] + steps) % dataset.num_classes
    return replace(dataset, train_labels=labels)
