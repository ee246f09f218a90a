"""The threshold: exact bounds, MAPIE's answers, and a promise that is kept as often as it says."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.evaluation.threshold import (
    CONFIDENCE,
    binomial_tail,
    error_bound,
    fit_threshold,
    thresholds_to_try,
)
from runtime.model.card import Threshold

CLASSES = 4
Draw = tuple[NDArray[np.float32], NDArray[np.int64]]


def draw(
    generator: np.random.Generator, count: int, *, sharpness: tuple[float, float], steps: int = 0
) -> Draw:
    """Probabilities (N, 4) of a calibrated model, and labels that follow them.

    With `steps` the confidences are rounded to so many values, as those of int8 files nearly are.
    """
    confidence = 0.3 + 0.7 * generator.beta(*sharpness, size=count)
    if steps:
        confidence = np.round(confidence * steps) / steps
    first = generator.integers(0, CLASSES, count)
    rest = ((1 - confidence) / (CLASSES - 1))[:, None]
    probabilities = np.repeat(rest, CLASSES, axis=1).astype(np.float32)
    probabilities[np.arange(count), first] = confidence
    right = generator.random(count) < confidence
    return probabilities, np.where(right, first, (first + 1) % CLASSES).astype(np.int64)


def tried_by(choosing: Draw, max_error: float) -> NDArray[np.float64]:
    probabilities, labels = choosing
    right = probabilities.argmax(axis=1) == labels
    return thresholds_to_try(probabilities.max(axis=1), right, max_error)


@pytest.mark.parametrize("images", [1, 45, 300, 2000])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_tail_and_bound_are_scipys(images: int, share: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    errors = round(share * images)
    for rate in (0.01, 0.05, 0.4, 0.9):
        expected = stats.binom.cdf(errors, images, rate)
        assert binomial_tail(errors, images, rate) == pytest.approx(expected, rel=1e-9, abs=1e-300)
    exact = 1.0 if errors == images else stats.beta.ppf(CONFIDENCE, errors + 1, images - errors)
    assert error_bound(errors, images) == pytest.approx(exact, abs=1e-8)


def test_forty_five_right_answers_prove_five_percent_and_forty_four_do_not() -> None:
    """The logarithm of 0.1 over that of 0.95 is 44.9."""
    labels = np.zeros(45, np.int64)
    sure = np.tile(np.float32([0.9, 0.1]), (45, 1))
    found = fit_threshold(sure, labels, np.array([0.9 - 1e-6]), max_error=0.05)
    assert isinstance(found, Threshold)
    assert (found.coverage, found.images, found.confidence) == (1.0, 45, 0.9)
    reason = fit_threshold(sure[:44], labels[:44], np.array([0.5]), max_error=0.05)
    assert reason == (
        "44 images do not prove that at most 0.05 of the accepted answers are wrong: of the 44 "
        "most certain answers 0 are, so that up to 5.1% are possible"
    )


def test_an_answer_that_is_not_finite_is_never_accepted() -> None:
    sure = np.tile(np.float32([0.9, 0.1]), (60, 1))
    sure[:10] = np.nan
    found = fit_threshold(sure, np.zeros(60, np.int64), np.array([0.5]), max_error=0.05)
    assert isinstance(found, Threshold)
    assert found.coverage == 50 / 60


def test_thresholds_begin_where_it_is_safe_and_end_at_the_least_certain_image() -> None:
    """Of 1,000 images the most certain 600 are right, and every fifth of the others is wrong."""
    confidence = np.linspace(1, 0.5, 1000)
    right = np.ones(1000, bool)
    right[600::5] = False
    tried = thresholds_to_try(confidence, right, 0.05)
    assert np.all(np.diff(tried) < 0)
    # 0.95^140 is below 0.001, and 0.95^120 is not; each step is 20 images.
    assert tried[0] == confidence[139]
    assert tried[-1] == 0.5
    assert len(tried) == 50 - 6


def test_equal_confidences_are_one_threshold() -> None:
    confidence = np.repeat([0.99, 0.8, 0.6], 40)
    tried = thresholds_to_try(confidence, np.ones(120, bool), 0.05)
    assert tried.tolist() == [0.6]  # only all 120 right answers are safe: 0.95^80 is above 0.01
    few = thresholds_to_try(confidence[:3], np.zeros(3, bool), 0.05)
    assert few.tolist() == [0.99]


def results(draws: int, **kind: object) -> Iterator[tuple[Threshold | str, float]]:
    """Thresholds of many splits, each with the true rate of errors among accepted answers."""
    generator = np.random.default_rng(17)
    # The model says the truth, so its confidences are the rate of right answers.
    population = draw(generator, 40_000, **kind)[0].max(axis=1).astype(np.float64)
    for _ in range(draws):
        tried = tried_by(draw(generator, 250, **kind), 0.05)
        found = fit_threshold(*draw(generator, 250, **kind), tried, max_error=0.05)
        accepted = population >= (found.probability if isinstance(found, Threshold) else 2)
        yield found, float(np.mean(1 - population[accepted])) if accepted.any() else 0.0


@pytest.mark.parametrize("steps", [0, 12])
def test_the_promise_is_broken_in_at_most_29_of_200_splits(steps: int) -> None:
    """At a rate of 0.1, more than 29 of 200 have a probability of 2 %."""
    found = list(results(200, sharpness=(3.0, 0.35), steps=steps))
    broken = sum(rate > 0.05 for _, rate in found)
    fitted = [threshold for threshold, _ in found if isinstance(threshold, Threshold)]
    assert 1 <= broken <= 29
    # It is not kept by refusing everything.
    assert len(fitted) > 150
    assert np.mean([threshold.coverage for threshold in fitted]) > 0.4


@pytest.mark.filterwarnings("ignore:Fixed sequence testing requires a monotonic risk")
def test_the_threshold_is_the_one_of_mapie() -> None:
    """Its fixed sequence over the same thresholds, for the wrong answers among the accepted.

    It warns where the rate of errors on the images does not rise from one threshold to the next.
    That may cost coverage and does not break the promise.
    """
    risk_control = pytest.importorskip("mapie.risk_control")
    wrong_among_accepted = risk_control.BinaryRisk(
        risk_occurrence=lambda right, accepted: right != accepted,
        risk_condition=lambda _, accepted: accepted == 1,
        higher_is_better=False,
    )
    generator = np.random.default_rng(3)
    fitted = 0
    for _ in range(25):
        tried = tried_by(draw(generator, 300, sharpness=(3.0, 0.35)), 0.05)
        probabilities, labels = draw(generator, 300, sharpness=(3.0, 0.35))
        right = probabilities.argmax(axis=1) == labels
        controller = risk_control.BinaryClassificationController(
            lambda rows: np.stack([1 - rows[:, 0], rows[:, 0]], axis=1),
            wrong_among_accepted,
            target_level=0.05,
            best_predict_param_choice="recall",
            confidence_level=CONFIDENCE,
            list_predict_params=tried,
            fwer_method="fixed_sequence",
        )
        confidence = probabilities.max(axis=1).astype(np.float64)
        controller.calibrate(confidence[:, None], right.astype(np.int64))
        theirs = controller.valid_predict_params
        ours = fit_threshold(probabilities, labels, tried, max_error=0.05)
        if isinstance(ours, Threshold):
            fitted += 1
            assert theirs.min() == ours.probability
        else:
            assert len(theirs) == 0
    assert fitted > 15
