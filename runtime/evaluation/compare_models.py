"""Whether a new model is worse than the old one, judged on the same labelled images."""

from collections.abc import Sequence
from math import exp, fsum, lgamma, log

import msgspec
import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import UserError
from runtime.base.shown_text import some
from runtime.evaluation.labelled_folder import composed

LEVEL = 0.01


class ClassRecalls(msgspec.Struct, frozen=True, kw_only=True):
    """The share of a class's images that each model finds."""

    name: str
    images: int
    old_recall: float
    new_recall: float


class Flipped(msgspec.Struct, frozen=True, kw_only=True):
    """An image that one model answers rightly and the other one wrongly.

    `image` is its path or, for an image without a file, its number from 0.
    """

    image: str | int
    true: str
    old: str
    new: str


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """Two models on the same labelled images.

    Attributes:
        images: how many.
        old_top1: the share that the old model answers rightly.
        new_top1: the share that the new model answers rightly.
        agreement: the share to which both give the same answer.
        worse: how many images only the old model answers rightly.
        better: how many images only the new model answers rightly.
        p_value: of the exact test that both are equally good.
        is_worse: whether the new model is worse beyond chance.
        classes: each class that has images, in the order of the old model. They are shown and not
            judged: of many classes some differ by chance.
        flipped: the images behind `worse`, then those behind `better`.
    """

    images: int
    old_top1: float
    new_top1: float
    agreement: float
    worse: int
    better: int
    p_value: float
    is_worse: bool
    classes: tuple[ClassRecalls, ...]
    flipped: tuple[Flipped, ...]

    @property
    def verdict(self) -> str:
        """In one sentence what the test says."""
        if self.p_value < LEVEL:
            word = "worse" if self.is_worse else "better"
            return f"the new model is {word} beyond chance (p = {self.p_value:.2g})"
        return f"no difference beyond chance (p = {self.p_value:.2g}, needed below {LEVEL:g})"


def compare_answers(
    old: NDArray[np.int64],
    new: NDArray[np.int64],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    images: Sequence[str | int],
) -> Compared:
    """Compares both models' first answers to the same images.

    Args:
        old: the old model's answers, int64 (N,), N of 1 or more.
        new: the new model's answers, int64 (N,).
        labels: the true classes, int64 (N,).
        class_names: what the numbers mean, for both models.
        images: N paths or numbers, by which flipped images are named.
    """
    old_right, new_right = old == labels, new == labels
    worse, better = np.flatnonzero(old_right & ~new_right), np.flatnonzero(new_right & ~old_right)
    p_value = mcnemar(len(worse), len(better))
    size = len(class_names)
    counts, old_found, new_found = (
        np.bincount(values, minlength=size)
        for values in (labels, labels[old_right], labels[new_right])
    )
    return Compared(
        images=len(labels),
        old_top1=float(old_right.mean()),
        new_top1=float(new_right.mean()),
        agreement=float((old == new).mean()),
        worse=len(worse),
        better=len(better),
        p_value=p_value,
        is_worse=p_value < LEVEL and len(worse) > len(better),
        classes=tuple(
            ClassRecalls(
                name=class_names[label],
                images=int(counts[label]),
                old_recall=float(old_found[label] / counts[label]),
                new_recall=float(new_found[label] / counts[label]),
            )
            for label in np.flatnonzero(counts).tolist()
        ),
        flipped=tuple(
            Flipped(
                image=images[row],
                true=class_names[labels[row]],
                old=class_names[old[row]],
                new=class_names[new[row]],
            )
            for row in (*worse.tolist(), *better.tolist())
        ),
    )


def mcnemar(worse: int, better: int) -> float:
    """The two-sided p-value of McNemar's exact test (Psychometrika 12, 1947).

    Of the images that only one model answers rightly, each is as likely one model's as the other's
    if both are equally good: the number of either is binomial with probability 1/2.
    """
    flips, fewer = worse + better, min(worse, better)
    # By logarithms: no float holds the number of ways to choose 1,000 of 2,000.
    all_ways = lgamma(flips + 1) - flips * log(2)
    tail = fsum(
        exp(all_ways - lgamma(count + 1) - lgamma(flips - count + 1)) for count in range(fewer + 1)
    )
    return min(1.0, 2 * tail)


def shared_classes(old: Sequence[str], new: Sequence[str]) -> NDArray[np.int64]:
    """For each class of the new model its number in the old one, int64 (K,).

    A name in two Unicode forms is one class, as in training.

    Raises:
        UserError: if the models know different classes.
    """
    if set(old) != set(new):
        old, new = ([composed(name) for name in names] for names in (old, new))
    positions = {name: number for number, name in enumerate(old)}
    if sorted(old) != sorted(new):
        differing = sorted(positions.keys() ^ set(new))
        raise UserError(
            f"the two models know different classes ({some(differing)}: in one of them only); "
            "expected two models of the same classes"
        )
    return np.array([positions[name] for name in new], dtype=np.int64)
