"""The one form that every data set takes."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.model.card import InputSpec

_IMAGES_OF_DIGEST = 64  # of each split, evenly spaced: reading all would take minutes


@dataclass(frozen=True)
class Dataset:
    """Labelled images of one data set, decoded, as arrays.

    `train_images` is uint8 (N, H, W, 3), possibly a read-only memory map; H and W exceed
    `input.size` where training cuts random resized crops out of them. `test_images` is uint8
    (M, size, size, 3) exactly as `runtime.model.preprocess` makes it with `input`. Labels are
    int64.
    """

    name: str
    class_names: tuple[str, ...]
    input: InputSpec
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            images, labels = getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")
            if images.dtype != np.uint8 or images.shape != (len(labels), *images.shape[1:3], 3):
                raise ValueError(f"{split} images are {images.dtype} {images.shape}")
            if labels.dtype != np.int64 or labels.ndim != 1 or not len(labels):
                raise ValueError(f"{split} labels are {labels.dtype} {labels.shape}")
        size = self.input.size
        if self.test_images.shape[1:3] != (size, size):
            raise ValueError(f"test images are {self.test_images.shape}, the input size is {size}")

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def digest(self) -> str:
        """Hex SHA-256 of the class names, all labels and some images, wherever the data lies."""
        content = hashlib.sha256("\0".join(self.class_names).encode())
        for images, labels in (
            (self.train_images, self.train_labels),
            (self.test_images, self.test_labels),
        ):
            content.update(labels.tobytes())
            rows = np.linspace(0, len(labels) - 1, min(len(labels), _IMAGES_OF_DIGEST)).astype(int)
            content.update(np.ascontiguousarray(images[rows]).tobytes())
        return content.hexdigest()
