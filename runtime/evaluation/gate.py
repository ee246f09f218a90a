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

from runtime.model.card import Card, ClassChange, EngineRecord, ModelFile, Parity, Precision
from runtime.model.holdout import Labelled


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
MAX_HOLDOUT_IMAGES = 1000
_MAX_HOLDOUT_BYTES = 64 << 20  # 445 images of 224 px: a bundle has to fit on a device
_SEED = 0
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


def compared(
    probabilities: NDArray[np.float32], test: Labelled, class_names: Sequence[str]
) -> tuple[Parity, Parity]:
    """Compares a file's answers with torch's: on all of `test`, and on what a bundle carries of it.

    `probabilities` are the file's for the images of `test`, float32 (N, K).
    """
    rows = _rows(test)
    whole = compare(probabilities, test.probabilities, test.labels, class_names)
    part = compare(probabilities[rows], test.probabilities[rows], test.labels[rows], class_names)
    return whole, part


def drawn(test: Labelled) -> Labelled:
    """The test images that a bundle carries: at most 1,000 images and 64 MiB.

    They are drawn class by class, so that the gate can judge as many classes as there is room for.
    """
    rows = _rows(test)
    return Labelled(test.images[rows], test.labels[rows], test.probabilities[rows])


def at_export(card: Card, record: ModelFile | EngineRecord) -> Parity | None:
    """What the record's ONNX file did at export on the images of `holdout.npz`.

    The gate passed it on the whole test split, of which these images are a small sample with
    another mix of classes. The file may do worse on them by chance. None if the card does not say
    it, or if the file was kept in spite of the gate: then the student alone is the measure.
    """
    digest = record.onnx_sha256 if isinstance(record, EngineRecord) else record.sha256
    file = next((each for each in card.files if each.sha256 == digest), None)
    if file is None or file.parity is None or complaint(file.parity, file.precision) is not None:
        return None
    return file.holdout_parity


def complaint(
    parity: Parity, precision: Precision, *, exported: Parity | None = None
) -> str | None:
    """In words what is outside the tolerance of `precision`; None if nothing is.

    The tolerance counts from the student. Where `exported`, what the file did on the same images
    at export, is worse than the student, it counts from that. A class that was lost there, too, is
    judged by top-1 alone.
    """
    tolerance = TOLERANCES[precision]
    one_image = 1 / parity.images
    measure, whose = parity.reference_top1, "the student's"
    needed, lost, before = 1.0, parity.lost_classes, ""
    if exported is not None:
        if exported.top1 < measure:
            measure, whose = exported.top1, "its own at export,"
        needed = exported.agreement
        lost = tuple(name for name in lost if name not in exported.lost_classes)
        before = f", at export {exported.agreement:.2%}"
    drop = measure - parity.top1
    found = []
    if drop > max(tolerance.top1_drop, one_image) + _ROUNDING:
        found.append(
            f"top-1 {parity.top1:.2%} is {100 * drop:.2f} points below {whose} "
            f"{measure:.2%} (allowed {100 * tolerance.top1_drop:.1f})"
        )
    if needed - parity.agreement > max(tolerance.disagreement, one_image) + _ROUNDING:
        found.append(
            f"it agrees with the student on {parity.agreement:.2%} of {parity.images} images"
            f"{before} (needed {needed - tolerance.disagreement:.1%})"
        )
    if parity.max_difference > tolerance.difference:
        found.append(
            f"a probability differs by {parity.max_difference:.1e} "
            f"(allowed {tolerance.difference:.0e})"
        )
    if lost:
        found.append(_lost(parity, lost))
    return "; ".join(found) or None


def unjudged_words(parity: Parity) -> str:
    """Says how many classes the gate could not judge by themselves."""
    count = parity.unjudged_classes
    classes = "1 class has" if count == 1 else f"{count} classes have"
    return (
        f"{classes} fewer than {FEWEST_JUDGED} test images: too few to judge, so only top-1 "
        "counts there"
    )


def _lost(parity: Parity, lost: Sequence[str]) -> str:
    names = [repr(name) for name in lost[:_MAX_NAMED]]
    more = len(lost) - len(names)
    words = ", ".join(names) + (f" and {more} more" if more else "")
    worst = parity.worst_class
    example = ""
    if worst is not None and worst.name in lost:
        example = (
            f": of the {worst.images} images of {worst.name!r} it finds {worst.recall_after:.0%}, "
            f"the student {worst.recall_before:.0%}"
        )
    classes = "class" if len(lost) == 1 else "classes"
    return f"it loses the {classes} {words}{example} (allowed {CLASS_LOSS:.0%} and chance)"


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
