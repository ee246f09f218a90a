"""A published data set whose pictures came as arrays instead of in the publisher's own files.

The publisher's checksums are of the files. Arrays are known by the exact sums of their bytes
instead, over all pictures and for each colour, and by how many pictures each class has. The sums do
not depend on the order of the pictures. Which label a picture has is not in them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import UserError
from training.data.source import Contents, Source, Split, fingerprint_of, split_of

_FILES = tuple(
    f"{split}_{what}.npy" for split in ("train", "test") for what in ("images", "labels")
)
_CLASSES = "classes.txt"
_CHUNK = 10_000  # pictures at once: their squares take eight bytes for each one of theirs

Sums = tuple[int, int, int]  # of red, green and blue


@dataclass(frozen=True)
class SplitFacts:
    """What tells a split's pictures: how many of each class, and sums over all of their bytes."""

    images_of_class: int
    sums: Sums
    sums_of_squares: Sums


@dataclass(frozen=True)
class ArrayFacts:
    """What tells a published data set: its classes in their order, and both splits."""

    class_names: tuple[str, ...]
    splits: Mapping[str, SplitFacts]


_CIFAR100_CLASSES = (
    "apple,aquarium fish,baby,bear,beaver,bed,bee,beetle,bicycle,bottle,bowl,boy,bridge,bus,"
    "butterfly,camel,can,castle,caterpillar,cattle,chair,chimpanzee,clock,cloud,cockroach,"
    "couch,crab,crocodile,cup,dinosaur,dolphin,elephant,flatfish,forest,fox,girl,hamster,"
    "house,kangaroo,keyboard,lamp,lawn mower,leopard,lion,lizard,lobster,man,maple tree,"
    "motorcycle,mountain,mouse,mushroom,oak tree,orange,orchid,otter,palm tree,pear,"
    "pickup truck,pine tree,plain,plate,poppy,porcupine,possum,rabbit,raccoon,ray,road,"
    "rocket,rose,sea,seal,shark,shrew,skunk,skyscraper,snail,snake,spider,squirrel,streetcar,"
    "sunflower,sweet pepper,table,tank,telephone,television,tiger,tractor,train,trout,tulip,"
    "turtle,wardrobe,whale,willow tree,wolf,woman,worm"
)
# Counted in the published pictures. The sums agree with the means that are quoted for them with 16
# digits: 0.5070751592371323 * 255 * 50,000 * 32 * 32 = 6,620,373,279 of red in training.
_CIFAR100 = ArrayFacts(
    class_names=tuple(_CIFAR100_CLASSES.split(",")),
    splits={
        "train": SplitFacts(
            500,
            (6_620_373_279, 6_352_382_090, 5_756_623_363),
            (1_093_977_562_105, 1_007_075_543_166, 901_128_318_593),
        ),
        "test": SplitFacts(
            100,
            (1_328_569_193, 1_272_680_636, 1_153_999_502),
            (220_286_936_083, 202_279_090_580, 181_176_077_848),
        ),
    },
)
ARRAY_FACTS = {"cifar100": _CIFAR100}
ARRAY_FOLDERS = {name: f"{name}-arrays" for name in ARRAY_FACTS}


def has_published_arrays(name: str, folder: Path) -> bool:
    """Whether the folder has all files of arrays of a data set that is known as arrays."""
    return name in ARRAY_FACTS and all((folder / file).is_file() for file in (*_FILES, _CLASSES))


def published_arrays(name: str, folder: Path) -> Source:
    """The source of the arrays in `folder`; they are checked when they are read.

    Args:
        name: a key of `ARRAY_FACTS`.
        folder: with `{train,test}_{images,labels}.npy` (uint8 NHWC RGB, integers) and
            `classes.txt`, in which "_" stands for " ", as at the publisher's.

    Raises:
        UserError: by `read`, if the arrays are not those that were published.
    """
    files = [folder / file for file in (*_FILES, _CLASSES)]

    def read() -> Contents:
        facts = ARRAY_FACTS[name]
        listed = (folder / _CLASSES).read_text(encoding="utf-8").splitlines()
        names = tuple(label.replace("_", " ") for label in listed)
        if names != facts.class_names:
            raise _others(name, folder, f"{_CLASSES} names other classes, or in another order")
        splits = {split: _checked(name, folder, split, facts) for split in facts.splits}
        return Contents(names, splits["train"], splits["test"])

    return Source(name, fingerprint_of(folder, files), read, files=tuple(files))


def facts_of(images: NDArray[np.uint8], labels: NDArray[np.int64], classes: int) -> SplitFacts:
    """The facts of uint8 images (N, H, W, 3) and labels (N,) of classes of one size.

    Raises:
        ValueError: if the classes have different numbers of images.
    """
    counts = np.bincount(labels, minlength=classes)
    if len(set(counts.tolist())) != 1:
        raise ValueError(f"classes have {counts.min()} to {counts.max()} images")
    sums, squares = np.zeros(3, np.int64), np.zeros(3, np.int64)
    for first in range(0, len(images), _CHUNK):
        part = images[first : first + _CHUNK].reshape(-1, 3).astype(np.int64)
        sums += part.sum(axis=0)
        squares += np.square(part).sum(axis=0)
    return SplitFacts(int(counts[0]), _sums(sums), _sums(squares))


def _checked(name: str, folder: Path, split: str, facts: ArrayFacts) -> Split:
    """The split of these arrays, which are the published ones."""
    try:
        images = np.load(folder / f"{split}_images.npy", mmap_mode="r")
        labels = np.load(folder / f"{split}_labels.npy").astype(np.int64)
        found = facts_of(images, labels, len(facts.class_names))
    except Exception as error:  # numpy has errors of many classes for a damaged head
        raise _others(name, folder, f"the {split} arrays: {error}") from error
    if found != facts.splits[split]:
        raise _others(name, folder, f"the {split} pictures are others, by their sums")
    return split_of(np.asarray(images), labels)


def _sums(values: NDArray[np.int64]) -> Sums:
    red, green, blue = (int(value) for value in values)
    return red, green, blue


def _others(name: str, folder: Path, why: str) -> UserError:
    return UserError(
        f"{folder} is not {name} as it was published ({why}); get it again, or name the folder "
        "with --data as data of your own"
    )
