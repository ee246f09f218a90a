"""Intervals and tests of the difference between two methods, over seeds and over test images.

All runs of a study are tested on the same images. So the mean over ten seeds is uncertain in two
ways: other seeds, and other test images, would give another one. The bootstrap here draws both anew
(crossed, as in Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from math import isnan, nan
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, NDArray[np.float64]]
# Figures (D, S) of S runs from columns (S, N) and D rows of weights (D, N) of the images.
Statistic = Callable[[Columns, NDArray[np.float64]], NDArray[np.float64]]
_DRAWS = 2000
_LEVEL = 0.95
# Of a run and weights of images. Each run is in several comparisons, and 2,000 areas take 20 ms.
_AREAS: dict[bytes, NDArray[np.float64]] = {}
_ALIKE = 1e-9  # of figures between 0 and 1: rounding, and far below one test image


class Interval(NamedTuple):
    """A difference of means over seeds, the ends of its interval, and a two-sided p-value.

    What is not known is NaN: the ends and the p-value of a paired t-test whose pairs are all alike,
    and all four where a figure of a run is (AUROC, if all answers are right).
    """

    difference: float
    low: float
    high: float
    p_value: float


def mean_of(column: str) -> Statistic:
    """The weighted mean over the images of "right" (accuracy) or "nll"."""

    def statistic(columns: Columns, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        of_images = weights / weights.sum(axis=1, keepdims=True)
        found: NDArray[np.float64] = of_images @ columns[column].T
        return found

    return statistic


def area(columns: Columns, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """AUROC of right against wrong answers of each run; an image counts `weights` times."""
    of_weights = blake2b(weights.tobytes()).digest()
    areas = []
    for confidence, right in zip(columns["confidence"], columns["right"], strict=True):
        run = blake2b(confidence.tobytes() + right.tobytes() + of_weights).digest()
        if run not in _AREAS:
            _AREAS[run] = _weighted_areas(confidence, right, weights)
        areas.append(_AREAS[run])
    return np.stack(areas, axis=1)


def crossed_bootstrap(
    first: Columns,
    second: Columns,
    statistic: Statistic,
    *,
    against: float = 0.0,
    seed: int = 0,
    draws: int = _DRAWS,
) -> Interval:
    """The mean difference `first` less `second` of paired runs, with an interval of 95 %.

    Args:
        first: columns (S, N) of S runs on N test images, row k of seed k.
        second: of the other method, with the same seeds and images.
        statistic: from columns and weights of images to a figure a draw and a run.
        against: the difference that the p-value doubts.
        seed: of the draws.
        draws: how often seeds and images are drawn anew.
    """
    seeds, images = next(iter(first.values())).shape
    of_images, of_seeds = _drawn(images, seeds, seed, draws)

    def differences(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return statistic(first, weights) - statistic(second, weights)

    drawn = (differences(of_images) * of_seeds).sum(axis=1)
    drawn = drawn[np.isfinite(drawn)]
    point = float(differences(np.ones((1, images))).mean())
    if isnan(point) or not len(drawn):
        return Interval(nan, nan, nan, nan)
    low, high = np.quantile(drawn, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    below, above = int((drawn <= against).sum()), int((drawn >= against).sum())
    p_value = min(1.0, 2 * (min(below, above) + 1) / (len(drawn) + 1))
    return Interval(point, float(low), float(high), p_value)


@lru_cache(maxsize=8)
def _drawn(
    images: int, seeds: int, seed: int, draws: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How often each draw has each image (D, N), and the weight of each seed in it (D, S)."""
    generator = np.random.default_rng(seed)
    of_images = generator.multinomial(images, np.full(images, 1 / images), size=draws)
    of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    return of_images.astype(np.float64), of_seeds


def paired_t(
    first: Columns, second: Columns, statistic: Statistic, *, against: float = 0.0
) -> Interval:
    """The mean difference as above, with the interval of a paired t-test over the seeds.

    It says how the mean would differ with other seeds on these test images. With few pairs it is
    wide, as it has to be: nothing is known of how much seeds differ. Pairs that are all alike tell
    nothing of it, so they have no interval.
    """
    from scipy import stats

    images = next(iter(first.values())).shape[1]
    weights = np.ones((1, images))
    gaps = (statistic(first, weights) - statistic(second, weights))[0]
    point, error = float(gaps.mean()), float(stats.sem(gaps))
    if isnan(point) or np.ptp(gaps) < _ALIKE:
        return Interval(point, nan, nan, nan)
    freedom = len(gaps) - 1
    half = float(stats.t.ppf((1 + _LEVEL) / 2, freedom)) * error
    p_value = 2 * float(stats.t.sf(abs(point - against) / error, freedom))
    return Interval(point, point - half, point + half, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for how many questions were asked (Holm 1979), in their order.

    One that is NaN counts as the worst one for the others, and stays.
    """
    if any(map(isnan, p_values)):
        known = holm([1.0 if isnan(value) else value for value in p_values])
        return [nan if isnan(own) else value for own, value in zip(p_values, known, strict=True)]
    order = np.argsort(p_values)
    steps = np.asarray(p_values)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return [float(value) for value in adjusted]


def seeds_needed(effect: float, deviation: float, *, power: float = 0.8) -> int:
    """How many pairs of runs show a difference of `effect` by a two-sided paired t-test at 5 %.

    Args:
        effect: the true mean difference, or its distance from a margin.
        deviation: the standard deviation of the differences between runs of one seed.
        power: the probability that the test shows it.
    """
    from scipy import stats

    if deviation < _ALIKE:  # then two pairs show it
        return 2
    for count in range(2, 10_000):
        freedom, shift = count - 1, effect / deviation * count**0.5
        limit = stats.t.ppf(1 - (1 - _LEVEL) / 2, freedom)
        if stats.nct.sf(limit, freedom, shift) + stats.nct.cdf(-limit, freedom, shift) >= power:
            return count
    raise ValueError(f"an effect of {effect} is too small for a deviation of {deviation}")


def _weighted_areas(
    scores: NDArray[np.float64], right: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """For each row of weights, the share of pairs of a right and a wrong answer in their order.

    A pair whose right answer is the surer one counts 1, and 1/2 if both are as sure.
    """
    order = np.argsort(scores, kind="stable")
    _, starts = np.unique(scores[order], return_index=True)
    of_right = np.add.reduceat((weights * right)[:, order], starts, axis=1)
    of_wrong = np.add.reduceat((weights * (1 - right))[:, order], starts, axis=1)
    wrong_below = np.cumsum(of_wrong, axis=1) - of_wrong / 2
    pairs = of_right.sum(axis=1) * of_wrong.sum(axis=1)
    ordered = (of_right * wrong_below).sum(axis=1)
    areas = np.full(len(weights), np.nan)
    np.divide(ordered, pairs, out=areas, where=pairs > 0)
    return areas
