"""From which probability on the answers of one file are accepted, so that few of them are wrong.

This is selective classification with a proven bound (Geifman and El-Yaniv, NeurIPS 2017), as a test
of many thresholds: Angelopoulos et al., "Learn then Test", arXiv 2110.01052. Nothing but NumPy and
`math` is needed, because engines get their thresholds on machines without torch and SciPy.

Two sets of images are needed, and the student was trained on neither. The first set chooses the
thresholds that are tried and their order. The second one tests them. No image of the second set may
have chosen anything before: neither an epoch, nor the temperature, nor the numbers of a file.
"""

import math

import numpy as np
from numpy.typing import NDArray

from runtime.model.card import Threshold

CONFIDENCE = 0.9  # the probability with which the bound holds
DEFAULT_MAX_ERROR = 0.05
_STEPS = 50  # thresholds that are tried, at most
# The first test should pass with a margin, so it stands where the first set's p-value is this low.
# In simulations with 45 to 1,000 images no other rule accepted clearly more.
_SAFE_STARTS = (0.001, 0.01, 0.05)
_PRECISION = 1e-9


def binomial_tail(errors: int, images: int, rate: float) -> float:
    """The probability of at most `errors` wrong answers of `images`, if each is wrong at `rate`."""
    if rate <= 0:
        return 1.0
    if rate >= 1:
        return 1.0 if errors >= images else 0.0
    log_rate, log_rest = math.log(rate), math.log1p(-rate)
    # By logarithms: the number of ways to choose half of 2,000 images is no float any more.
    terms = (
        math.exp(
            math.lgamma(images + 1)
            - math.lgamma(count + 1)
            - math.lgamma(images - count + 1)
            + count * log_rate
            + (images - count) * log_rest
        )
        for count in range(min(errors, images) + 1)
    )
    return min(1.0, math.fsum(terms))


def error_bound(errors: int, images: int, *, confidence: float = CONFIDENCE) -> float:
    """The largest rate of errors that `errors` wrong answers of `images` leave possible.

    The exact upper bound of Clopper and Pearson (Biometrika 26, 1934), one-sided: with a higher
    rate, so few errors would have a probability below `1 - confidence`. It is 1 without images.
    """
    low, high = 0.0, 1.0
    while high - low > _PRECISION:
        middle = (low + high) / 2
        if binomial_tail(errors, images, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def thresholds_to_try(
    confidence: NDArray[np.floating], right: NDArray[np.bool_], max_error: float
) -> NDArray[np.float64]:
    """Which thresholds are tested, in their order: from a safe one down to one that accepts all.

    Images that have no part in the tests choose them, so the order is fixed before the tests begin
    ("split fixed sequence testing", section 4.2 of Learn then Test). Each threshold is the
    confidence of one of them; the lowest one is that of the least certain image, so that what is
    less certain than all of them is refused.

    Args:
        confidence: the largest probability of each image (N,), N of 1 or more.
        right: whether its answer is right, (N,).
        max_error: the share of wrong answers that shall be allowed.

    Returns:
        Descending thresholds, float64, at least one.
    """
    order = np.argsort(-confidence, kind="stable")
    descending = confidence[order].astype(np.float64)
    errors = np.cumsum(~right[order])
    # A threshold accepts all images that are as certain: it stands at the last of equal ones.
    ends = np.flatnonzero(np.append(descending[1:] < descending[:-1], True))
    shares = np.linspace(1 / _STEPS, 1, _STEPS)
    wanted = np.ceil(shares * len(descending)).astype(np.int64) - 1
    ends = np.unique(ends[np.searchsorted(ends, wanted)])
    p_values = np.array([binomial_tail(int(errors[e]), int(e) + 1, max_error) for e in ends])
    start = int(p_values.argmin())
    for safe in _SAFE_STARTS:
        if (passing := np.flatnonzero(p_values <= safe)).size:
            start = int(passing[0])
            break
    return descending[ends[start:]]


def fit_threshold(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.int64],
    tried: NDArray[np.float64],
    *,
    max_error: float,
    confidence: float = CONFIDENCE,
) -> Threshold | str:
    """The lowest threshold whose accepted answers are proven to have few errors.

    The thresholds are tested in their order, each at the full level, until one fails (fixed
    sequence testing: Bauer, Statistics in Medicine 10, 1991). A wrong promise needs that the first
    threshold which is not good enough passes its test, and that has a probability of
    `1 - confidence` at most, however many thresholds are tried. A test counts the errors among
    the accepted images: given their number, it is binomial with the true rate of errors.

    Args:
        probabilities: of one file or engine, (N, K), N of 1 or more.
        labels: the true classes, int64 (N,).
        tried: thresholds in the order of the tests, not chosen by these images.
        max_error: the share of wrong answers that is allowed.
        confidence: the probability with which the promise holds.

    Returns:
        The threshold, or in words why there is none.
    """
    certain = probabilities.max(axis=1).astype(np.float64)
    wrong = (probabilities.argmax(axis=1) != labels) | ~np.isfinite(probabilities).all(axis=1)
    found: Threshold | None = None
    for threshold in tried.tolist():
        accepted = certain >= threshold
        count, errors = int(accepted.sum()), int((wrong & accepted).sum())
        if binomial_tail(errors, count, max_error) > 1 - confidence:
            break
        found = Threshold(
            probability=threshold,
            max_error=max_error,
            confidence=confidence,
            coverage=count / len(labels),
            images=len(labels),
        )
    if found is not None:
        return found
    certain_enough = certain >= tried[0]
    count, errors = int(certain_enough.sum()), int((wrong & certain_enough).sum())
    bound = error_bound(errors, count, confidence=confidence)
    return (
        f"{len(labels)} images do not prove that at most {max_error:.3g} of the accepted answers "
        f"are wrong: of the {count} most certain answers {errors} are, so that up to {bound:.1%} "
        "are possible"
    )


def accepted_figures(
    probabilities: NDArray[np.floating], labels: NDArray[np.int64], threshold: Threshold
) -> tuple[float, float | None]:
    """The share of answers (N, K) that are accepted, and how much of those is wrong.

    The second figure is None if none is accepted.
    """
    accepted = probabilities.max(axis=1) >= threshold.probability
    wrong = probabilities.argmax(axis=1) != labels
    return float(accepted.mean()), float(wrong[accepted].mean()) if accepted.any() else None
