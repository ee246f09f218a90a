"""What an export takes of a run: which images int8 observes, and which it is chosen by."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn

from export.trained_run import RunToExport, _why_none
from runtime.model.bundle import open_bundle
from runtime.model.holdout import KeptApart, Labelled
from training.config.recipe import Recipe
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
    assert data.own_images is bool(validation_images)
    observed, chosen = (
        {int(image[0, 0, 0]) + 256 * int(image[0, 0, 1]) for image in part}
        for part in (data.images, data.validation_images)
    )
    assert not observed & chosen
    if validation_images:
        assert max(observed) < count - 30
        assert chosen == set(range(count - 30, count))


@pytest.mark.parametrize("validation_images", [0, 300])
def test_no_image_of_the_group_of_a_threshold_image_is_calibrated_with(
    patterns: Dataset, toy_bundle: Path, validation_images: int
) -> None:
    """Images of one group are right or wrong together."""
    count = len(patterns.train_labels)
    groups = np.arange(count) // 4
    dataset = replace(patterns, train_groups=groups, validation_images=validation_images)
    rows = np.arange(count - 300, count, 8)
    none = np.zeros(0)
    kept = KeptApart(patterns.train_images[rows], patterns.train_labels[rows], rows, none, none > 0)
    test = Labelled(patterns.test_images, patterns.test_labels, np.zeros((240, 3), np.float32))
    card = open_bundle(toy_bundle).card
    run = RunToExport(nn.Identity(), card, test, dataset, kept=kept)
    for chosen in run._calibration_rows():
        assert len(chosen)
        assert not np.isin(groups[chosen], groups[rows]).any()


@pytest.mark.parametrize(
    ("size", "words"), [(20, "train with more groups"), (1, "no bound is valid")]
)
def test_a_run_whose_groups_are_too_few_for_a_threshold_says_so(
    patterns: Dataset, size: int, words: str
) -> None:
    """With single images, an older version has let all of them choose."""
    grouped = replace(patterns, train_groups=np.arange(600) // size)
    recipe = Recipe(
        epochs=1, batch_size=8, optimizer="sgd", learning_rate=0.1, validation_fraction=0.2
    )
    result = {"threshold_images": 0, "validation_images": 120}
    trained = SimpleNamespace(result=result, plan=SimpleNamespace(recipe=recipe))
    assert words in _why_none(trained, grouped)
