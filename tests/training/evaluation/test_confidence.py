"""NLL, AUROC and the record of test images, against scikit-learn."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss, roc_auc_score

from runtime.model.figures import calibration_gap
from training.evaluation.calibration import likeliest_temperature
from training.evaluation.confidence import (
    auroc,
    image_record,
    negative_log_likelihood,
    quality_figures,
    read_image_record,
)

IMAGES, CLASSES = 200, 5


def answers(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(CLASSES, size=IMAGES)
    logits = generator.normal(scale=2, size=(IMAGES, CLASSES)).astype(np.float32)
    logits[np.arange(IMAGES), labels] += 2
    return logits, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_likelihood_is_scikit_learns(temperature: float) -> None:
    logits, labels = answers()
    probabilities = softmax(logits.astype(np.float64) / temperature, axis=1)
    expected = log_loss(labels, probabilities, labels=range(CLASSES))
    found = negative_log_likelihood(logits, labels, temperature=temperature)
    assert found == pytest.approx(expected, rel=1e-9)


def test_the_area_is_scikit_learns_also_with_ties() -> None:
    generator = np.random.default_rng(1)
    scores = np.round(generator.random(300), 1)  # most of them tied
    positive = generator.random(300) < 0.3 + 0.5 * scores
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), rel=1e-12)
    assert np.isnan(auroc(scores, np.ones(300, dtype=bool)))
    assert np.isnan(auroc(scores, np.zeros(300, dtype=bool)))


def test_the_figures_of_a_run() -> None:
    logits, labels = answers()
    figures = quality_figures(logits, labels, temperature=2.0)
    probabilities = softmax(logits.astype(np.float64) / 2, axis=1)
    right = probabilities.argmax(axis=1) == labels
    assert figures["top1"] == pytest.approx(right.mean())
    assert figures["auroc"] == pytest.approx(roc_auc_score(right, probabilities.max(axis=1)))
    assert figures["nll"] == pytest.approx(log_loss(labels, probabilities))
    assert figures["nll_uncalibrated"] == pytest.approx(
        log_loss(labels, softmax(logits.astype(np.float64), axis=1))
    )
    sure = np.eye(CLASSES, dtype=np.float32)
    all_right = quality_figures(sure, np.arange(CLASSES), temperature=1.0)
    assert all_right["auroc"] is None  # JSON has no NaN


def test_the_record_gives_the_figures_back() -> None:
    logits, labels = answers()
    record = image_record(logits, labels, temperature=1.5)
    assert len(record["right"]) == pytest.approx(IMAGES / 8 * 4 / 3, abs=3)
    columns = read_image_record(record)
    figures = quality_figures(logits, labels, temperature=1.5)
    assert columns["right"].mean() == figures["top1"]
    assert columns["nll"].mean() == pytest.approx(figures["nll"], rel=1e-3)
    area = auroc(columns["confidence"], columns["right"] == 1)
    assert area == pytest.approx(figures["auroc"], abs=2e-3)
    # An image on the edge of a bin may go to the next one when its confidence is rounded.
    gap = calibration_gap(columns["confidence"], columns["right"])
    assert gap == pytest.approx(figures["ece"], abs=1 / IMAGES)
    before = calibration_gap(columns["confidence_uncalibrated"], columns["right"])
    assert before == pytest.approx(figures["ece_uncalibrated"], abs=1 / IMAGES)
    assert abs(before - gap) > 0.01
    del record["confidence_uncalibrated"]  # as older records are
    assert read_image_record(record).keys() == {"right", "nll", "confidence"}


def test_the_likeliest_temperature_has_the_lowest_loss() -> None:
    logits, labels = answers()
    best = likeliest_temperature(logits, labels)
    least = negative_log_likelihood(logits, labels, temperature=best)
    for factor in (0.9, 0.99, 1.01, 1.1):
        assert negative_log_likelihood(logits, labels, temperature=best * factor) > least
