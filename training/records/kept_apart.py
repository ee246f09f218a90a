"""`validation.npz` of a run: validation images that have chosen nothing, for the thresholds."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.base.files import write_atomic
from runtime.model.figures import softmax
from runtime.model.holdout import (
    VALIDATION_FILE,
    KeptApart,
    drawn_for_validation,
    validation_bytes,
)
from runtime.model.preprocess import preprocess
from training.data import Dataset
from training.data.splits import one_of_each_group


def write_kept_apart(
    folder: Path,
    dataset: Dataset,
    validation: NDArray[np.int64],
    choosing: NDArray[np.bool_],
    logits: NDArray[np.float32] | None,
    *,
    temperature: float,
) -> None:
    """Writes the file to the run's folder. If no image is kept apart, a former file is removed.

    Of the images of one group it has one, because the bound of a threshold counts its images as
    independent of each other.

    Args:
        folder: of the run.
        dataset: its data set, with `size` x `size` images as the network gets them.
        validation: int64 (V,), the rows of the training images that are held out.
        choosing: which of them chose the epoch and the temperature, (V,).
        logits: of the student for all of them, (V, K); None where V is 0.
        temperature: of the student.
    """
    apart = one_of_each_group(dataset, validation[~choosing])
    if logits is None or not len(apart):
        (folder / VALIDATION_FILE).unlink(missing_ok=True)
        return
    rows, spec = drawn_for_validation(apart, image_size=dataset.input.size), dataset.input
    probabilities = softmax(logits[choosing], temperature=temperature)
    labels = dataset.train_labels[validation[choosing]]
    kept = KeptApart(
        images=np.stack([preprocess(dataset.train_images[row], spec) for row in rows]),
        labels=dataset.train_labels[rows],
        rows=rows,
        choosing_confidence=probabilities.max(axis=1).astype(np.float32),
        choosing_right=probabilities.argmax(axis=1) == labels,
    )
    write_atomic(folder / VALIDATION_FILE, validation_bytes(kept))
