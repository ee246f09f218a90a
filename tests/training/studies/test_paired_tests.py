"""The crossed bootstrap, Holm's correction and the number of seeds, against other software."""

import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from training.studies.paired_tests import (
    area,
    crossed_bootstrap,
    holm,
    mean_of,
    paired_t,
    seeds_needed,
)


def runs(
    accuracy: float, *, seeds: int, images: int, hard: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """Runs whose seeds and images differ in how often they are right."""
    generator = np.random.default_rng(seed)
    chance = accuracy + generator.normal(scale=0.02, size=(seeds, 1)) + hard
    right = (generator.random((seeds, images)) < chance).astype(float)
    confidence = np.clip(0.4 * right + 0.6 * generator.random((seeds, images)), 0, 1)
    return {"right": right, "confidence": confidence}


def test_both_intervals_hold_the_truth_and_are_no_wider_than_they_have_to_be() -> None:
    """The bootstrap counts what a seed does to an image three times (Owen 2007), so it is wider."""
    held, width = np.zeros(2), np.zeros(2)
    gains = []
    for trial in range(60):
        hard = np.random.default_rng(trial).normal(scale=0.15, size=200)
        size = {"seeds": 8, "images": 200, "hard": hard}
        first = runs(0.62, **size, seed=1000 + trial)  # type: ignore[arg-type]
        second = runs(0.60, **size, seed=2000 + trial)  # type: ignore[arg-type]
        drawn = crossed_bootstrap(first, second, mean_of("right"), draws=300)
        paired = paired_t(first, second, mean_of("right"))
        gains.append(drawn.difference)
        held += [each.low <= 0.02 <= each.high for each in (drawn, paired)]
        width += [each.high - each.low for each in (drawn, paired)]
    assert held[0] / 60 >= 0.95
    assert 0.85 <= held[1] / 60 < 1  # 0.95 expected, with a deviation of 0.03
    exact = 2 * 1.96 * np.std(gains)  # the width of an interval that knew the deviation
    assert 1.0 < width[1] / 60 / exact < 1.5
    assert 1.0 < width[0] / 60 / exact < 1.8


def test_a_paired_t_test_is_scipys() -> None:
    generator = np.random.default_rng(6)
    first, second = ({"right": (generator.random((5, 50)) < 0.5) * 1.0} for _ in range(2))
    gaps = (first["right"] - second["right"]).mean(axis=1)
    found = paired_t(first, second, mean_of("right"), against=0.1)
    expected = stats.ttest_1samp(gaps, 0.1)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert found.difference == pytest.approx(gaps.mean())


def test_pairs_that_are_all_alike_claim_nothing() -> None:
    """A difference of one image with each of three seeds; their deviation is rounding alone."""
    second = {"right": np.zeros((3, 10))}
    second["right"][[0, 1, 2], [0, 1, 2]] = 1
    first = {"right": np.zeros((3, 10))}
    first["right"][:, 5:7] = 1
    found = paired_t(first, second, mean_of("right"))
    assert found.difference == pytest.approx(0.1)
    assert np.isnan(found[1:]).all()
    first["right"][0, 8] = 1  # one image more with one seed is a deviation
    assert np.isfinite(paired_t(first, second, mean_of("right"))).all()


def test_a_figure_that_a_run_does_not_have_has_no_interval_and_no_warning() -> None:
    """AUROC of runs that are right on all images, or on all but one."""
    columns = runs(0.6, seeds=10, images=40, hard=np.zeros(40), seed=7)
    right = {"right": np.ones((10, 40)), "confidence": columns["confidence"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for by in (crossed_bootstrap, paired_t):
            assert np.isnan(by(right, columns, area)).all()
        # Of the draws of images, 36 % lack this one, and count neither for nor against.
        right["right"][:, 0] = 0
        found = crossed_bootstrap(right, right, area)
        assert found == (0, 0, 0, 1)
        right["confidence"] = np.ones((10, 40))
        right["confidence"][:, 0] = 0  # the wrong answer is the least sure one: an area of 1
        columns["right"], columns["confidence"] = right["right"], np.ones((10, 40))  # 1/2
        found = crossed_bootstrap(right, columns, area, against=0.5)
    assert tuple(found) == pytest.approx((0.5, 0.5, 0.5, 1))


def test_holm_counts_what_is_not_known_as_the_worst() -> None:
    first, unknown, last = holm([0.01, float("nan"), 0.03])
    assert (first, last) == (pytest.approx(0.03), pytest.approx(0.06))
    assert np.isnan(unknown)


def test_images_that_all_seeds_share_widen_the_interval() -> None:
    """With many seeds on few images, seeds alone would claim far too much."""
    generator = np.random.default_rng(0)
    gained = (generator.random(50) < 0.1).astype(float)  # five images that every run wins
    base = np.zeros((100, 50))
    found = crossed_bootstrap({"right": base + gained}, {"right": base}, mean_of("right"))
    assert found.difference == pytest.approx(gained.mean())
    exact = stats.binom.ppf([0.025, 0.975], 50, gained.mean()) / 50
    assert (found.low, found.high) == pytest.approx(exact, abs=0.021)


def test_no_difference_is_no_finding() -> None:
    hard = np.zeros(100)
    same = runs(0.5, seeds=5, images=100, hard=hard, seed=3)
    found = crossed_bootstrap(same, same, mean_of("right"))
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_the_p_value_is_that_of_the_difference_that_is_doubted() -> None:
    """Ten of 400 images lost with every seed: -2.5 points, binomial deviation 0.78 points."""
    second = {"right": np.ones((3, 400))}
    first = {"right": np.ones((3, 400)) - (np.arange(400) < 10)}
    found = [
        crossed_bootstrap(first, second, mean_of("right"), against=bar) for bar in (0.0, -4.5 / 400)
    ]
    assert found[0].p_value == pytest.approx(2 * stats.binom.cdf(0, 400, 0.025), abs=2e-3)
    # Fewer are lost than the bar allows when at most four of the drawn images are.
    assert found[1].p_value == pytest.approx(2 * stats.binom.cdf(4, 400, 0.025), abs=0.02)
    assert found[0][:3] == found[1][:3]


def test_the_area_of_weighted_images_is_scikit_learns() -> None:
    columns = runs(0.6, seeds=3, images=80, hard=np.zeros(80), seed=4)
    columns["confidence"] = columns["confidence"].round(1)  # ties
    weights = np.random.default_rng(5).integers(0, 4, 80).astype(float)
    expected = [
        roc_auc_score(right, confidence, sample_weight=weights)
        for right, confidence in zip(columns["right"], columns["confidence"], strict=True)
    ]
    np.testing.assert_allclose(area(columns, weights[None])[0], expected, rtol=1e-12)


def test_holm_is_the_published_example() -> None:
    """Worked by hand: 0.01, 0.04, 0.03 of three questions."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.2]) == pytest.approx([0.2])


def test_the_number_of_seeds_is_the_t_tests() -> None:
    # 33 and 10 are known from tables: effect over deviation 0.5 and 1.
    assert seeds_needed(0.5, 1.0) == 34
    assert seeds_needed(1.0, 1.0) == 10
    assert seeds_needed(1.0, 0.0) == seeds_needed(1.0, 1e-15) == 2
    generator = np.random.default_rng(0)
    samples = generator.normal(loc=0.5, size=(4000, 34))
    shown = stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05
    assert shown.mean() == pytest.approx(0.81, abs=0.02)
