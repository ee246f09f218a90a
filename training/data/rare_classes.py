"""Classes with few images: weights for the loss, an order that draws all classes alike, thinning.

The order and the thinning are functions of labels and seeds alone, so that all processes of a run,
and a run that is resumed, have the same ones.
"""

import numpy as np
from numpy.typing import NDArray

_BALANCED = 3  # keeps these draws apart from those of orders, partners and noise of the same seed
_THINNING_SEED = 0  # all runs are thinned alike, whatever their seed


def weights_of_classes(
    kind: str, labels: NDArray[np.int64], *, num_classes: int
) -> NDArray[np.float32]:
    """What each class counts in a cross-entropy, float32 (K,).

    "balanced" weights a class by 1 / n, n its images, so that all classes count alike: scikit-learn
    calls it `class_weight="balanced"`. "sqrt" weights by 1 / √n, half way to that on a logarithmic
    scale. Both are scaled so that the mean weight over the images is 1: the learning rate keeps its
    meaning. A class without images has the weight 1.

    Args:
        kind: "none", "balanced" or "sqrt".
        labels: of the images that are trained on, int64 (N,).
        num_classes: K.
    """
    counts = np.bincount(labels, minlength=num_classes).astype(np.float64)
    weights = np.ones(num_classes)
    if kind == "none":
        return weights.astype(np.float32)
    present = counts > 0
    weights[present] = 1 / (counts[present] if kind == "balanced" else np.sqrt(counts[present]))
    mean = (weights * counts).sum() / counts.sum()
    weights[present] /= mean
    return weights.astype(np.float32)


def balanced_order(
    labels: NDArray[np.int64], *, length: int, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Row numbers (length,) in random order, in which each class is as frequent as any other.

    The numbers of rows of two classes differ by one at most; which classes have one more is drawn
    anew for each epoch. A class whose rows are used up begins again: no row is drawn a second time
    before all rows of its class were drawn. Of a class with more rows than its share, an epoch
    sees a random part.

    Args:
        labels: int64 (N,).
        length: of the epoch, in images.
        seed: of the run.
        epoch: counted from 0.
    """
    generator = np.random.default_rng((seed, epoch, _BALANCED))
    rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    shares = np.full(len(rows), length // len(rows))
    shares[generator.permutation(len(rows))[: length % len(rows)]] += 1
    drawn = []
    for of_class, share in zip(rows, shares, strict=True):
        rounds = -(-int(share) // len(of_class))
        again = [generator.permutation(of_class) for _ in range(rounds)]
        drawn += [np.concatenate([of_class[:0], *again])[:share]]
    return generator.permutation(np.concatenate(drawn))


def thinned(
    rows: NDArray[np.int64], labels: NDArray[np.int64], *, ratio: float
) -> NDArray[np.int64]:
    """`rows` with 1 / `ratio` of the images of every second class, ascending.

    The thinned classes are those of odd numbers. The share is rounded, and one image stays at
    least.

    Args:
        rows: int64 (N,), of images that are trained on.
        labels: int64 (M,), of all images that `rows` number.
        ratio: 1 or more.
    """
    if ratio == 1:
        return rows
    generator = np.random.default_rng(_THINNING_SEED)
    kept = []
    for label in np.unique(labels[rows]):
        of_class = rows[labels[rows] == label]
        if label % 2:
            share = max(1, round(len(of_class) / ratio))
            of_class = generator.permutation(of_class)[:share]
        kept.append(of_class)
    return np.sort(np.concatenate(kept))
