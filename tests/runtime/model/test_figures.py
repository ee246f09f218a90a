"""Figures of answers against values worked out by hand, and against scikit-learn and SciPy."""

import warnings

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special
from sklearn import metrics

from runtime.model.figures import (
    class_figures,
    confusion_matrix,
    expected_calibration_error,
    log_softmax,
    softmax,
    top_k,
)


def test_top_k_counts_ranks() -> None:
    logits = np.array([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [1.0, 2.0, 3.0], [5.0, 5.0, 0.0]])
    labels = np.array([0, 2, 0, 0])
    assert top_k(logits, labels, 1) == 0.25  # a tie is no hit
    assert top_k(logits, labels, 2) == 0.75
    assert top_k(logits, labels, 3) == 1


def test_a_row_with_nan_is_never_right() -> None:
    """Also not where k is more than there are classes, as top-5 of three."""
    nan = float("nan")
    logits = np.array([[nan, nan, nan], [nan, 1.0, 0.0], [0.0, 1.0, nan], [3.0, 2.0, 1.0]])
    labels = np.array([0, 0, 1, 0])
    for k in (1, 2, 5):
        assert top_k(logits, labels, k) == 0.25


def test_ece_of_two_bins_by_hand() -> None:
    """Bin (0.6, 0.667]: 2 of 4 right at 0.65; bin (0.867, 0.933]: 1 of 1 right at 0.9."""
    probabilities = np.array([[0.65, 0.35]] * 4 + [[0.1, 0.9]])
    labels = np.array([0, 0, 1, 1, 1])
    expected = 0.8 * abs(0.5 - 0.65) + 0.2 * abs(1 - 0.9)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected)


def test_ece_puts_the_edges_into_a_bin() -> None:
    certain = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert expected_calibration_error(certain, np.array([0, 0])) == 0
    assert expected_calibration_error(certain, np.array([1, 1])) == 1


def test_softmax_divides_by_the_temperature() -> None:
    logits = np.array([[0.0, np.log(9.0)]])
    assert softmax(logits) == pytest.approx(np.array([[0.1, 0.9]]))
    assert softmax(logits, temperature=2.0) == pytest.approx(np.array([[0.25, 0.75]]))


def test_confusion_matrix_rows_are_true_classes() -> None:
    logits = np.eye(3)[[0, 1, 1, 2]]
    counts = confusion_matrix(logits, np.array([0, 0, 1, 2]))
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]


Answers = tuple[NDArray[np.float64], NDArray[np.int64]]


@pytest.fixture(params=[0, 1, 2])
def answers(request: pytest.FixtureRequest) -> Answers:
    """Logits (N, K) and labels. Seed 1: a class that is never predicted; 2: one without images."""
    generator = np.random.default_rng(request.param)
    labels = generator.integers(0, 7, 500)
    logits = generator.normal(size=(500, 7)) + 1.5 * np.eye(7)[labels]
    if request.param == 1:
        logits[:, 3] = -100
    if request.param == 2:
        labels[labels == 5] = 4
    return logits, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_softmax_equals_scipy(answers: Answers, temperature: float) -> None:
    logits, _ = answers
    expected = special.softmax(logits / temperature, axis=1)
    np.testing.assert_allclose(softmax(logits, temperature=temperature), expected, rtol=1e-12)
    expected = special.log_softmax(logits / temperature, axis=1)
    np.testing.assert_allclose(log_softmax(logits, temperature=temperature), expected, rtol=1e-12)


def test_softmax_of_huge_logits_stays_finite() -> None:
    logits = np.array([[1e4, 0.0, -1e4]], np.float32)
    assert softmax(logits).tolist() == [[1, 0, 0]]
    assert log_softmax(logits).tolist() == [[0, -1e4, -2e4]]


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_equals_scikit_learn_where_no_scores_are_equal(answers: Answers, k: int) -> None:
    logits, labels = answers
    if logits[0, 3] == -100:  # equal scores: the other test's
        logits = logits[:, [0, 1, 2, 4, 5, 6]]
        labels = labels % 6
    expected = metrics.top_k_accuracy_score(labels, logits, k=k, labels=range(logits.shape[1]))
    assert top_k(logits, labels, k) == pytest.approx(expected, abs=0)


def test_confusion_matrix_equals_scikit_learn(answers: Answers) -> None:
    logits, labels = answers
    expected = metrics.confusion_matrix(labels, logits.argmax(axis=1), labels=range(7))
    np.testing.assert_array_equal(confusion_matrix(logits, labels), expected)


def test_class_figures_equal_scikit_learn(answers: Answers) -> None:
    logits, labels = answers
    predicted = logits.argmax(axis=1)
    figures = class_figures(confusion_matrix(logits, labels))
    precision, recall, f1, images = metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(7), zero_division=0
    )
    np.testing.assert_allclose(figures.precision, precision, rtol=1e-12)
    np.testing.assert_allclose(figures.recall, recall, rtol=1e-12)
    np.testing.assert_allclose(figures.f1, f1, rtol=1e-12)
    assert figures.images.tolist() == images.tolist()
    with warnings.catch_warnings():  # scikit-learn warns of predictions without images
        warnings.simplefilter("ignore")
        balanced = metrics.balanced_accuracy_score(labels, predicted)
    assert figures.balanced_accuracy == pytest.approx(balanced)
    macro_f1 = metrics.f1_score(labels, predicted, average="macro", zero_division=0)
    assert figures.macro_f1 == pytest.approx(macro_f1)


def test_class_figures_by_hand() -> None:
    """Class 0: 3 of 4 found; class 1: found by 2 of 3 answers; class 2: neither images nor answers.

    A division by zero would be a warning, and a warning fails the test.
    """
    figures = class_figures(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))
    assert figures.images.tolist() == [4, 2, 0]
    assert figures.precision == pytest.approx([1, 2 / 3, 0])
    assert figures.recall == pytest.approx([3 / 4, 1, 0])
    assert figures.f1 == pytest.approx([6 / 7, 4 / 5, 0])
    assert figures.balanced_accuracy == pytest.approx(7 / 8)
    assert figures.macro_f1 == pytest.approx((6 / 7 + 4 / 5) / 2)
