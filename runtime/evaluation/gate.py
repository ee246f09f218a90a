"""The gate: how much a model file may differ from the trained student, by precision.

It needs NumPy only, because engines are verified on machines without torch and the data set.
Polygraphy's comparator is not used: it compares outputs by tolerances, and the gate also counts how
many labels are right, class by class.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from runtime.model.card import ClassChange, Parity, Precision


@dataclass(frozen=True)
class Tolerance:
    """What is allowed. The two shares always allow one image, however few images there are.

    Attributes:
        top1_drop: how much lower top-1 may be than the student's, as a share of all images.
        disagreement: the share of images on which the first class may differ.
        difference: the largest difference of any probability.
    """

    top1_drop: float = 1.0
    disagreement: float = 1.0
    difference: float = 1.0


TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(disagreement=0.001, difference=1e-4),
    "fp16": Tolerance(top1_drop=0.002),
    "int8": Tolerance(top1_drop=0.01),
    "int8-cpu": Tolerance(top1_drop=0.01),
}
_ROUNDING = 1e-9
# A class may lose this share of its images. It fails where so many lost images are less probable
# than the level if each image were lost with that probability.
CLASS_LOSS = 0.05
CLASS_LEVEL = 1e-6
# With fewer images, a class would fail by the loss of a handful, or could not fail at all.
FEWEST_JUDGED = 6
_MAX_NAMED = 3


def compare(
    probabilities: NDArray[np.float32],
    reference: NDArray[np.float32],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
) -> Parity:
    """Compares a file's probabilities with those of torch.

    A row with a probability that is not finite counts as wrong, and such a probability as a
    difference of 1, the largest possible one.

    Args:
        probabilities: the file's, float32 (N, K).
        reference: torch's, float32 (N, K).
        labels: the true classes, int64 (N,).
        class_names: of the K classes.
    """
    difference = np.abs(probabilities - reference)
    difference = np.where(np.isfinite(difference), difference, 1.0)
    first, expected = probabilities.argmax(axis=1), reference.argmax(axis=1)
    finite = np.isfinite(probabilities).all(axis=1)
    before, after = expected == labels, (first == labels) & finite
    size = len(class_names)
    counts = np.bincount(labels, minlength=size)
    lost = np.bincount(labels[before & ~after], minlength=size)
    judged = counts >= FEWEST_JUDGED
    judged_classes = np.flatnonzero(judged).tolist()
    failed = [c for c in judged_classes if lost[c] >= fewest_too_many(int(counts[c]))]
    return Parity(
        images=len(labels),
        top1=float(np.mean(after)),
        reference_top1=float(np.mean(before)),
        agreement=float(np.mean((first == expected) & finite)),
        max_difference=float(difference.max()),
        worst_class=_worst_class(before, after, labels, class_names),
        lost_classes=tuple(class_names[c] for c in failed),
        unjudged_classes=int(np.sum((counts > 0) & ~judged)),
    )


@cache
def fewest_too_many(images: int) -> int:
    """How many of a class's images are too many to lose: 7 of 10.

    A one-sided exact binomial test: the smallest k with P(X >= k) <= CLASS_LEVEL, where X is the
    number of lost images among `images` if each is lost with probability CLASS_LOSS. It is more
    than `images` where no number is too many.
    """
    tail = 0.0
    for count in range(images, -1, -1):
        kept = images - count
        # By logarithms: the number of ways to lose half of 2,000 images is no float any more.
        ways = math.lgamma(images + 1) - math.lgamma(count + 1) - math.lgamma(kept + 1)
        tail += math.exp(ways + count * math.log(CLASS_LOSS) + kept * math.log1p(-CLASS_LOSS))
        if tail > CLASS_LEVEL:
            return count + 1
    raise AssertionError("the probabilities of all counts add up to one")


def _worst_class(
    before: NDArray[np.bool_],
    after: NDArray[np.bool_],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
) -> ClassChange:
    """The class whose recall falls most; of several the one that is found least."""
    size = len(class_names)
    counts = np.bincount(labels, minlength=size)
    found = [np.bincount(labels[right], minlength=size) for right in (before, after)]
    recalls = [right / np.maximum(counts, 1) for right in found]
    present = np.flatnonzero(counts)
    order = np.lexsort((recalls[1][present], (recalls[1] - recalls[0])[present]))
    worst = int(present[order[0]])
    return ClassChange(
        name=class_names[worst],
        recall_before=float(recalls[0][worst]),
        recall_after=float(recalls[1][worst]),
        images=int(counts[worst]),
    )


def complaint(parity: Parity, precision: Precision) -> str | None:
    """In words what is outside the tolerance of `precision`; None if nothing is."""
    tolerance = TOLERANCES[precision]
    one_image = 1 / parity.images
    drop = parity.reference_top1 - parity.top1
    found = []
    if drop > max(tolerance.top1_drop, one_image) + _ROUNDING:
        found.append(
            f"top-1 {parity.top1:.2%} is {100 * drop:.2f} points below the student's "
            f"{parity.reference_top1:.2%} (allowed {100 * tolerance.top1_drop:.1f})"
        )
    if 1 - parity.agreement > max(tolerance.disagreement, one_image) + _ROUNDING:
        found.append(
            f"it agrees with the student on {parity.agreement:.2%} of {parity.images} images "
            f"(needed {1 - tolerance.disagreement:.1%})"
        )
    if parity.max_difference > tolerance.difference:
        found.append(
            f"a probability differs by {parity.max_difference:.1e} "
            f"(allowed {tolerance.difference:.0e})"
        )
    if parity.lost_classes:
        found.append(_lost(parity))
    return "; ".join(found) or None


def unjudged_words(parity: Parity) -> str:
    """Says how many classes the gate could not judge by themselves."""
    count = parity.unjudged_classes
    classes = "1 class has" if count == 1 else f"{count} classes have"
    return (
        f"{classes} fewer than {FEWEST_JUDGED} test images: too few to judge, so only top-1 "
        "counts there"
    )


def _lost(parity: Parity) -> str:
    names = [repr(name) for name in parity.lost_classes[:_MAX_NAMED]]
    more = len(parity.lost_classes) - len(names)
    words = ", ".join(names) + (f" and {more} more" if more else "")
    worst = parity.worst_class
    example = ""
    if worst is not None and worst.name in parity.lost_classes:
        example = (
            f": of the {worst.images} images of {worst.name!r} it finds {worst.recall_after:.0%}, "
            f"the student {worst.recall_before:.0%}"
        )
    classes = "class" if len(parity.lost_classes) == 1 else "classes"
    return f"it loses the {classes} {words}{example} (allowed {CLASS_LOSS:.0%} and chance)"
