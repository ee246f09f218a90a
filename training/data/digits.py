"""scikit-learn's handwritten digits: 1,797 real 8x8 grey images, no download.

A stratified fifth of the set (360 images) is held out for testing; `split_seed` fixes which.
"""

import numpy as np
from numpy.typing import NDArray

from runtime.model.preprocess import preprocess
from training.data.dataset import Dataset
from training.data.geometry import whole_images

NAME = "digits"
IMAGE_SIZE = 32
NUM_TEST = 360
_MAX_VALUE = 16  # the images hold 0..16
# Measured on the training split of split seed 0 at 32 px.
_MEAN = 0.306
_STD = 0.324


def load_digits(image_size: int, *, split_seed: int) -> Dataset:
    """The digits at `image_size` pixels, grey repeated as RGB."""
    from sklearn import datasets, model_selection  # a second to import

    digits = datasets.load_digits()
    grey = np.rint(digits.images * (255 / _MAX_VALUE)).astype(np.uint8)
    train, test = model_selection.train_test_split(
        np.arange(len(grey)), test_size=NUM_TEST, stratify=digits.target, random_state=split_seed
    )
    spec = whole_images(image_size, mean=(_MEAN,) * 3, std=(_STD,) * 3).input
    rgb = np.repeat(grey[..., None], 3, axis=3)

    def images(rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        return np.stack([preprocess(rgb[row], spec) for row in rows])

    labels = digits.target.astype(np.int64)
    return Dataset(
        name=NAME,
        class_names=tuple(str(name) for name in digits.target_names),
        input=spec,
        train_images=images(train),
        train_labels=labels[train],
        test_images=images(test),
        test_labels=labels[test],
    )
