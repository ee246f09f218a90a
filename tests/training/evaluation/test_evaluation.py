"""Figures of a student against values worked out by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from runtime.base.errors import UserError
from runtime.model.card import InputSpec
from runtime.model.figures import expected_calibration_error, softmax
from training.evaluation.logits import fit_temperature, logits_of
from training.finish import summary


def test_no_temperature_is_fitted_to_nan() -> None:
    logits = np.array([[1.0, 0.0], [np.nan, np.nan], [0.0, np.inf]])
    with pytest.raises(UserError, match="2 of 3 rows of logits are not finite") as info:
        fit_temperature(logits, np.array([0, 1, 1]))
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("true", [0.5, 1.0, 2.5])
def test_calibration_finds_the_temperature_that_made_the_labels(true: float) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(scale=3, size=(50_000, 5))
    cumulative = softmax(logits, temperature=true).cumsum(axis=1)
    labels = (generator.random((len(logits), 1)) > cumulative).sum(axis=1)
    found = fit_temperature(logits, labels)
    assert found is not None
    assert found == pytest.approx(true, rel=0.03)
    calibrated = expected_calibration_error(softmax(logits, temperature=found), labels)
    assert calibrated < 0.01


def test_calibration_of_an_error_free_set_stays_away_from_certainty() -> None:
    labels = np.arange(100) % 4
    logits = 3.0 * np.eye(4)[labels]
    temperature = fit_temperature(logits, labels)
    assert temperature is not None
    probabilities = softmax(logits, temperature=temperature)
    assert 0.98 < probabilities.max() < 0.995  # (N + 1) / (N + 2) = 0.990


@pytest.mark.parametrize(("scale", "right"), [(5.0, 0), (5.0, 1), (1e-4, 4)])
def test_a_handful_of_images_may_have_no_best_temperature(scale: float, right: int) -> None:
    """If most are wrong, the best temperature is infinite; if all are right, it is zero."""
    labels = np.arange(4)
    answers = np.where(labels < right, labels, (labels + 1) % 4)
    assert fit_temperature(scale * np.eye(4)[answers], labels) is None


class Mean(nn.Module):
    """A student whose logits are the means of the channels, so they are known for each image."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        return images.mean(dim=(2, 3))


def test_every_image_is_evaluated_in_order_and_the_mode_is_restored() -> None:
    """1,029 images of 32 px are one batch of evaluation and five images more."""
    spec = InputSpec(size=32, resize=32, crop=32, mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))
    images = np.random.default_rng(0).integers(0, 256, (1029, 32, 32, 3), dtype=np.uint8)
    student = Mean().train()
    logits = logits_of(student, images, spec, device=torch.device("cpu"))
    expected = (images.mean(axis=(1, 2)) / 255 - spec.mean) / np.array(spec.std)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
    assert student.training


def test_the_summary_says_why_a_run_is_not_calibrated() -> None:
    """Of few images the fraction may be none, though it is not zero."""
    figures = dict.fromkeys(("top1", "top5", "ece", "ece_uncalibrated", "width", "seconds"), 1.0)
    counts = dict.fromkeys(("image_size", "train_images", "test_images", "params", "macs"), 6)
    words = dict.fromkeys(("arch", "data", "terms", "device"), "x")
    result = {**figures, **counts, **words, "temperature": 1.0, "validation_images": 0}
    said = summary({**result, "recipe": {"validation_fraction": 0.05}})
    assert "validation_fraction 0.05 holds out no image" in said
    assert "none was best for the 3 training images" in summary({**result, "validation_images": 3})
