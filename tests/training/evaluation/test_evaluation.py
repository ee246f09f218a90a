"""Figures of a student against values worked out by hand."""

import numpy as np
import torch
from torch import Tensor, nn

from runtime.model.card import InputSpec
from training.evaluation.logits import logits_of
from training.finish import summary


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
    result["validation_images"] = 3
    assert "1 (not calibrated: why)" in summary({**result, "not_calibrated": "why"})
    # A result.json of a former version does not state the reason.
    assert "none was best for 3 images held out" in summary(result)
