"""Figures of a classifier's answers, in NumPy alone: training, export, runtime and page use these.

N is the number of images, K the number of classes. scikit-learn checks these functions in the
tests; the runtime itself does not need it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ECE_BINS = 15


def log_softmax(logits: NDArray[np.floating], *, temperature: float = 1.0) -> NDArray[np.float64]:
    """Logarithms of the probabilities, float64 (N, K), of logits (N, K) over `temperature`."""
    scaled = _scaled(logits, temperature)
    scaled -= np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    return scaled


def softmax(logits: NDArray[np.floating], *, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities, float64 (N, K), of logits (N, K) divided by `temperature`."""
    exponentials = np.exp(_scaled(logits, temperature))
    exponentials /= exponentials.sum(axis=1, keepdims=True)
    return exponentials


def _scaled(logits: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Logits over the temperature, shifted so that each row's largest is 0: exp cannot overflow."""
    scaled = logits.astype(np.float64, copy=False) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    return scaled


def top_k(scores: NDArray[np.floating], labels: NDArray[np.int64], k: int) -> float:
    """Share of rows whose label (N,) is among the k largest scores (N, K).

    Scores are logits or probabilities. A tie counts against the label. A row with a NaN is wrong,
    whatever k is, because it has no largest scores. (scikit-learn's function breaks ties by the
    order of the classes and refuses NaN, so it is not used.)
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    others = np.where(np.arange(scores.shape[1]) == labels[:, None], -np.inf, scores)
    ordered = ~np.isnan(scores).any(axis=1)
    return float(np.mean(ordered & ((others >= own).sum(axis=1) < k)))


def expected_calibration_error(
    probabilities: NDArray[np.floating], labels: NDArray[np.int64], *, bins: int = ECE_BINS
) -> float:
    """Mean gap between confidence and accuracy over `bins` equally wide bins of confidence.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
    """
    right = probabilities.argmax(axis=1) == labels
    return calibration_gap(probabilities.max(axis=1), right, bins=bins)


def calibration_gap(
    confidence: NDArray[np.floating],
    right: NDArray[np.bool_] | NDArray[np.floating],
    *,
    bins: int = ECE_BINS,
) -> float:
    """`expected_calibration_error` of answers (N,) with these confidences, right or wrong."""
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    which = np.digitize(confidence, edges, right=True)
    gaps = np.bincount(which, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def confusion_matrix(scores: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts (K, K) of scores (N, K): the row is the true class, the column the predicted one."""
    size = scores.shape[1]
    cells = np.bincount(labels * size + scores.argmax(axis=1), minlength=size * size)
    return cells.reshape(size, size)


@dataclass(frozen=True)
class ClassFigures:
    """Figures of each class, arrays (K,), and their means.

    A quotient whose divisor is zero counts as 0, as scikit-learn's `zero_division=0` does: the
    precision of a class that is never predicted, the recall of a class without images.

    Attributes:
        images: how many images have this label, int64.
        precision: share of the images predicted as this class that have its label.
        recall: share of the images of this label that are predicted as it.
        f1: harmonic mean of precision and recall.
        balanced_accuracy: mean recall of the classes that have images.
        macro_f1: mean F1 of the classes that are among the labels or the predictions.
    """

    images: NDArray[np.int64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    balanced_accuracy: float
    macro_f1: float


def class_figures(confusion: NDArray[np.int64]) -> ClassFigures:
    """The figures of each class of a confusion matrix (K, K); it must count at least one image."""
    right = np.diagonal(confusion)
    images, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    recall = _quotient(right, images)
    f1 = _quotient(2 * right, images + predicted)
    return ClassFigures(
        images=images,
        precision=_quotient(right, predicted),
        recall=recall,
        f1=f1,
        balanced_accuracy=float(recall[images > 0].mean()),
        macro_f1=float(f1[images + predicted > 0].mean()),
    )


def _quotient(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """`part / whole`, and 0 where `whole` is 0."""
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)
