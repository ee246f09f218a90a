"""Weights of classes, the balanced order and thinning, by their definitions."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.data.batches import Batches
from training.data.rare_classes import balanced_order, thinned, weights_of_classes

COUNTS = (40, 2, 10, 0, 8)
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(5), COUNTS)).astype(np.int64)


@pytest.mark.parametrize("kind", ["none", "balanced", "sqrt"])
def test_the_mean_weight_of_the_images_is_one(kind: str) -> None:
    weights = weights_of_classes(kind, LABELS, num_classes=5)
    assert weights.dtype == np.float32
    assert weights[LABELS].mean() == pytest.approx(1, rel=1e-6)
    assert weights[3] == 1  # of a class without images


def test_weights_follow_the_inverse_of_the_counts() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    present = np.array([0, 1, 2, 4])
    balanced = weights_of_classes("balanced", LABELS, num_classes=5)
    expected = compute_class_weight("balanced", classes=present, y=LABELS)
    np.testing.assert_allclose(balanced[present], expected, rtol=1e-6)
    sqrt = weights_of_classes("sqrt", LABELS, num_classes=5)
    assert sqrt[1] / sqrt[0] == pytest.approx(np.sqrt(20))
    assert (weights_of_classes("none", LABELS, num_classes=5) == 1).all()


def test_an_epoch_has_each_class_equally_often() -> None:
    order = balanced_order(LABELS, length=50, seed=3, epoch=7)
    counts = np.bincount(LABELS[order], minlength=5)
    assert counts[3] == 0
    assert sorted(counts[[0, 1, 2, 4]]) == [12, 12, 13, 13]
    rows = np.bincount(order, minlength=len(LABELS))
    for label in (0, 1, 2, 4):  # no row comes again before the others of its class have come
        assert np.ptp(rows[label == LABELS]) <= 1


def test_the_order_is_that_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> NDArray[np.int64]:
        return balanced_order(LABELS, length=48, seed=seed, epoch=epoch)

    assert np.array_equal(order(1, 2), order(1, 2))
    assert not np.array_equal(order(1, 2), order(1, 3))
    assert not np.array_equal(order(1, 2), order(2, 2))
    labels = LABELS[order(1, 2)]
    assert (np.diff(labels) != 0).any()
    assert np.abs(np.bincount(labels[:24], minlength=5) - np.bincount(labels[24:])).max() < 8


def balanced_batches(rank: int = 0, world_size: int = 1, first: int = 0) -> list[NDArray[np.int64]]:
    batches = Batches(
        np.zeros((60, 4, 4, 3), np.uint8),
        LABELS,
        batch_size=8 // world_size,
        device=torch.device("cpu"),
        seed=5,
        rank=rank,
        world_size=world_size,
        subset=np.arange(4, 60),
        balanced=True,
    )
    assert len(batches) == 7  # as long as an epoch that is not balanced
    return [batch.rows.numpy().copy() for batch in batches.epoch(1, first=first)]


def test_balanced_batches_resume_and_are_shared_by_processes() -> None:
    whole = balanced_batches()
    assert min(rows.min() for rows in whole) >= 4
    counts = np.bincount(LABELS[np.concatenate(whole)], minlength=5)
    assert counts[counts > 0].tolist() == [14, 14, 14, 14]
    for own, expected in zip(balanced_batches(first=3), whole[3:], strict=True):
        assert np.array_equal(own, expected)
    parts = zip(balanced_batches(0, 2), balanced_batches(1, 2), strict=True)
    assert all(
        np.array_equal(np.concatenate(pair), rows) for pair, rows in zip(parts, whole, strict=True)
    )


def test_thinning_leaves_a_share_of_every_second_class() -> None:
    labels = np.tile(np.arange(4), 50)
    rows = np.arange(20, 200)
    kept = thinned(rows, labels, ratio=20)
    assert np.bincount(labels[kept]).tolist() == [45, 2, 45, 2]
    assert np.array_equal(kept, np.unique(kept))
    assert np.array_equal(thinned(rows, labels, ratio=1), rows)
    assert np.bincount(labels[thinned(rows, labels, ratio=1000)]).tolist() == [45, 1, 45, 1]
