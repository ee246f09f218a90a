"""The published data sets that are known by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from training.data.geometry import Geometry, photographs, whole_images
from training.data.photo_sets import photo_set
from training.data.small_images import cifar, fashion_mnist
from training.data.source import Source


@dataclass(frozen=True)
class Known:
    """`find(name, data_root, split_seed)` gives the source; `image_size` is the default."""

    find: Callable[[str, Path | None, int], Source]
    geometry: Callable[[int], Geometry]
    image_size: int


# Means and standard deviations of the training images, as they are usually quoted.
_FASHION = partial(whole_images, mean=(0.2860,) * 3, std=(0.3530,) * 3)
_CIFAR10 = partial(whole_images, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
_CIFAR100 = partial(whole_images, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762))

PUBLISHED: dict[str, Known] = {
    "fashion-mnist": Known(fashion_mnist, _FASHION, 28),
    "cifar10": Known(cifar, _CIFAR10, 32),
    "cifar100": Known(cifar, _CIFAR100, 32),
    "tiny-imagenet": Known(photo_set, photographs, 64),
    "caltech101": Known(photo_set, photographs, 224),
    "stanford-dogs": Known(photo_set, photographs, 224),
    "cub200": Known(photo_set, photographs, 224),
    "imagenette": Known(photo_set, photographs, 224),
}
