"""Calibration: the right temperature of many images, and no harm by few."""

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from runtime.base.errors import UserError
from runtime.model.figures import expected_calibration_error, log_softmax, softmax, top_k
from training.engine.selection import scores_of
from training.evaluation.calibration import calibrate

DRAWS = 200


def test_no_temperature_is_fitted_to_nan() -> None:
    logits = np.array([[1.0, 0.0], [np.nan, np.nan], [0.0, np.inf]])
    with pytest.raises(UserError, match="2 of 3 rows of logits are not finite") as info:
        calibrate(logits, np.array([0, 1, 1]))
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("true", [0.5, 1.0, 2.5])
def test_calibration_finds_the_temperature_that_made_the_labels(true: float) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(scale=3, size=(50_000, 5))
    cumulative = softmax(logits, temperature=true).cumsum(axis=1)
    labels = (generator.random((len(logits), 1)) > cumulative).sum(axis=1)
    found = calibrate(logits, labels).temperature
    assert found == pytest.approx(true, rel=0.03)
    calibrated = expected_calibration_error(softmax(logits, temperature=found), labels)
    assert calibrated < 0.01


def test_calibration_of_an_error_free_set_stays_away_from_certainty() -> None:
    """The likeliest temperature is zero. The interval ends where 100 right answers cost 1.92 nats.

    That is exp(-0.0192) = 0.981 for each.
    """
    labels = np.arange(100) % 4
    logits = 3.0 * np.eye(4)[labels]
    probabilities = softmax(logits, temperature=calibrate(logits, labels).temperature)
    assert probabilities.max() == pytest.approx(0.981, abs=0.001)


@pytest.mark.parametrize("images", [3, 10, 30, 100])
@pytest.mark.parametrize("scale", [0.25, 1.0, 2.0, 6.0])
def test_few_images_do_no_harm(scale: float, images: int) -> None:
    """Over 200 draws the mean error is not raised, and none is doubled.

    The scale makes the same student too modest, about right, and too sure of itself.
    """
    before, after, _ = _errors(scale, images)
    assert after.mean() <= before.mean()
    assert (after < 2 * before).all()


def test_the_likeliest_temperature_of_few_images_does_harm() -> None:
    """So the facts above could be false."""
    before, _, likeliest = _errors(1.0, 3)
    assert likeliest.mean() > 1.5 * before.mean()


@pytest.mark.parametrize("scale", [0.25, 3.0])
def test_many_images_calibrate(scale: float) -> None:
    before, after, likeliest = _errors(scale, 800)
    assert after.mean() < before.mean() / 2
    assert after.mean() < likeliest.mean() + 0.01


def test_the_reason_is_told_where_nothing_is_proven() -> None:
    logits, labels = _student()
    few = calibrate(logits[:3], labels[:3])
    assert few == (1.0, "3 images held out do not prove that another one is better")
    assert calibrate(logits[:0], labels[:0]) == (1.0, "no image was held out")
    assert calibrate(3 * logits[:400], labels[:400]).reason is None


def test_ten_copies_of_each_image_prove_no_more_than_one() -> None:
    logits, labels = _student()
    logits, labels = 3 * logits[:60], labels[:60]
    copies = np.repeat(np.arange(60), 10)
    alone = calibrate(logits, labels).temperature
    grouped = calibrate(logits[copies], labels[copies], copies).temperature
    assert alone > 1
    assert grouped == pytest.approx(alone, rel=1e-4)
    assert calibrate(logits[copies], labels[copies]).temperature > 1.05 * alone


@pytest.mark.parametrize(("scale", "images"), [(1.0, 10), (3.0, 30)])
def test_images_that_chose_the_epoch_calibrate_as_well_as_fresh_ones(
    scale: float, images: int
) -> None:
    """Over 200 draws, of eight students that are equally good: the choice is chance alone."""
    epochs, labels = _epochs()
    epochs = scale * epochs
    generator = np.random.default_rng(0)
    errors = []
    for _ in range(DRAWS):
        order = generator.permutation(len(labels))
        drawn, fresh, others = np.split(order, [images, 2 * images])
        scores = [scores_of(logits[drawn], labels[drawn]) for logits in epochs]
        best = epochs[max(range(len(epochs)), key=lambda e: (scores[e].top1, -scores[e][1]))]
        temperatures = (1.0, *(calibrate(best[own], labels[own])[0] for own in (drawn, fresh)))
        errors.append(
            [
                expected_calibration_error(softmax(best[others], temperature=t), labels[others])
                for t in temperatures
            ]
        )
    before, same, other = np.mean(errors, axis=0)
    assert same <= before
    assert same <= other + 0.01


def _errors(scale: float, images: int) -> tuple[NDArray[np.float64], ...]:
    """Calibration errors of the other images: before, calibrated, and with the likeliest."""
    logits, labels = _student()
    logits = scale * logits
    generator = np.random.default_rng(0)
    errors = []
    for _ in range(DRAWS):
        order = generator.permutation(len(labels))
        drawn, others = order[:images], order[images:]
        temperatures = (
            1.0,
            calibrate(logits[drawn], labels[drawn]).temperature,
            _likeliest(logits[drawn], labels[drawn]),
        )
        errors.append(
            [
                expected_calibration_error(softmax(logits[others], temperature=t), labels[others])
                for t in temperatures
            ]
        )
    before, after, likeliest = np.array(errors).T
    return before, after, likeliest


def _likeliest(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    rows = np.arange(len(labels))
    found = minimize_scalar(
        lambda x: -log_softmax(logits, temperature=float(np.exp(x)))[rows, labels].sum(),
        bounds=(-3, 3),
        method="bounded",
    )
    return float(np.exp(found.x))


@cache
def _student() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits of digits by a linear classifier that has seen 100 others, in a random order."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(1).permutation(len(labels))
    images, labels = images[order] / 16, labels[order].astype(np.int64)
    student = LogisticRegression(C=10.0, max_iter=1000).fit(images[:100], labels[:100])
    logits = student.decision_function(images[100:])
    assert 0.8 < top_k(logits, labels[100:], 1) < 0.95
    return logits, labels[100:]


@cache
def _epochs() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits (8, N, 10) of digits by classifiers that have seen 8 samples of the same images."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    images, labels = load_digits(return_X_y=True)
    generator = np.random.default_rng(1)
    order = generator.permutation(len(labels))
    images, labels = images[order] / 16, labels[order].astype(np.int64)
    found = []
    for _ in range(8):
        rows = generator.choice(200, 150, replace=False)
        student = LogisticRegression(C=10.0, max_iter=1000).fit(images[rows], labels[rows])
        found.append(student.decision_function(images[200:]))
    return np.stack(found), labels[200:]
