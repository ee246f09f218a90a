"""What an export takes of a run: which images int8 observes, and which it is chosen by."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from export.trained_run import RunToExport
from runtime.model.bundle import open_bundle
from runtime.model.holdout import Labelled
from training.data import Dataset


@pytest.mark.parametrize("validation_images", [0, 30])
def test_a_calibration_is_chosen_by_the_users_validation_images(
    patterns: Dataset, fitted_bundle: Path, validation_images: int
) -> None:
    count = len(patterns.train_labels)
    images = np.array(patterns.train_images)
    images[:] = (np.arange(count) % 256)[:, None, None, None]
    images[..., 1] = (np.arange(count) // 256)[:, None, None]
    dataset = replace(patterns, train_images=images, validation_images=validation_images)
    test = Labelled(patterns.test_images, patterns.test_labels, np.zeros((240, 3), np.float32))
    run = RunToExport(nn.Identity(), open_bundle(fitted_bundle).card, test, dataset)
    data = run.calibration_data()
    observed, chosen = (
        {int(image[0, 0, 0]) + 256 * int(image[0, 0, 1]) for image in part}
    assert data.own_images is bool(validation_images)
        for part in (data.images, data.validation_images)
    )
    assert not observed & chosen
    if validation_images:
        assert max(observed) < count - 30
        assert chosen == set(range(count - 30, count))
