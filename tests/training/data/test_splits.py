"""Which images are held out, and how many training labels are made wrong."""

from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from runtime.base.errors import UserError
from runtime.model.card import InputSpec
from training.config.plan import Plan
from training.data import Dataset
from training.data.splits import (
    choosing_images,
    one_of_each_group,
    split_validation,
    with_label_noise,
)
from training.engine.trainer import Trainer

ROWS = np.arange(0, 1000, 2)  # the others are held out


def dataset(num_classes: int) -> Dataset:
    spec = InputSpec(size=2, resize=2, crop=2, mean=(0.5,) * 3, std=(0.5,) * 3)
    labels = np.arange(1000) % num_classes
    images = np.zeros((1000, 2, 2, 3), np.uint8)
    names = tuple(map(str, range(num_classes)))
    return Dataset("noisy", names, spec, images, labels, images, labels)


@pytest.mark.parametrize(("share", "count"), [(0.2, 100), (0.4, 200), (0.0013, 1), (0.0, 0)])
def test_the_asked_share_of_the_rows_gets_another_class(share: float, count: int) -> None:
    clean = dataset(10)
    noisy = with_label_noise(clean, ROWS, share=share, seed=0)
    changed = np.flatnonzero(noisy.train_labels != clean.train_labels)
    assert len(changed) == count
    assert np.isin(changed, ROWS).all()
    assert np.array_equal(noisy.test_labels, clean.test_labels)
    assert np.array_equal(clean.train_labels, np.arange(1000) % 10)


def test_every_other_class_is_drawn_about_as_often() -> None:
    clean = dataset(5)
    noisy = with_label_noise(clean, np.arange(1000), share=0.8, seed=0)
    steps = (noisy.train_labels - clean.train_labels) % 5
    counts = np.bincount(steps, minlength=5)
    assert counts[0] == 200
    assert np.all(np.abs(counts[1:] - 200) < 5 * np.sqrt(200))


def test_the_seed_alone_decides() -> None:
    first, again, other = (
        with_label_noise(dataset(10), ROWS, share=0.2, seed=seed).train_labels for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_one_class_has_no_wrong_label() -> None:
    with pytest.raises(UserError, match=r"label_noise 0.2: noisy has one class"):
        with_label_noise(dataset(1), ROWS, share=0.2, seed=0)


@pytest.mark.parametrize("peer", ["none", "cs-kd"])
def test_a_run_trains_on_noisy_labels_and_is_judged_by_true_ones(
    make_plan: Callable[..., Plan], tiny_data: Dataset, peer: str
) -> None:
    plan = make_plan("ce", label_noise=0.5, peer=peer)
    trainer = Trainer(plan, tiny_data, device=torch.device("cpu"))
    rows, labels = trainer.validation_rows, trainer.dataset.train_labels
    assert np.array_equal(labels[rows], tiny_data.train_labels[rows])
    assert np.array_equal(trainer.dataset.test_labels, tiny_data.test_labels)
    wrong = labels != tiny_data.train_labels
    assert wrong.sum() == round(0.5 * len(trainer.train_rows))
    # The batches hold at most as many labels of each class as there are.
    seen = torch.cat([batch.labels.clone() for batch in trainer.batches.epoch(0)])
    assert len(seen) == len(trainer.train_rows) // 8 * 8
    counts = np.bincount(labels[trainer.train_rows], minlength=3)
    assert np.all(np.bincount(seen.numpy(), minlength=3) <= counts)
    assert not np.array_equal(counts, np.bincount(tiny_data.train_labels[trainer.train_rows]))


def test_the_validation_split_is_stratified_fixed_and_disjoint() -> None:
    labels = np.repeat([0, 1, 2], [100, 10, 1])
    trained, held_out = split_validation(labels, 0.1)
    assert sorted(np.concatenate([trained, held_out])) == list(range(111))
    assert np.bincount(labels[held_out], minlength=3).tolist() == [10, 1, 0]
    again = split_validation(labels, 0.1)
    assert np.array_equal(again[1], held_out)
    assert len(split_validation(labels, 0.0)[1]) == 0


def relabelled(labels: np.ndarray) -> Dataset:
    images = np.zeros((len(labels), 2, 2, 3), np.uint8)
    return replace(dataset(5), train_images=images, train_labels=labels)


def test_half_of_the_held_out_images_of_each_class_choose() -> None:
    data = relabelled(np.repeat([0, 1, 2], [140, 41, 21]))
    rows = np.arange(202)
    choosing = choosing_images(data, rows)
    for label, count in ((0, 70), (1, 21), (2, 11)):
        assert abs(choosing[data.train_labels == label].sum() - count) <= 1
    assert choosing.sum() == 101
    assert np.array_equal(choosing, choosing_images(data, rows))
    # 45 right answers are the fewest that bound the errors by 5 %.
    assert choosing_images(data, rows[:89]).all()
    assert choosing_images(data, rows[:90]).sum() == 45
    assert choosing_images(data, rows, thresholds=False).all()


def test_images_of_one_group_choose_together_or_are_kept_apart_together() -> None:
    groups = np.arange(400) // 4
    data = replace(relabelled(np.arange(400) % 4), train_groups=groups)
    choosing = choosing_images(data, np.arange(400))
    assert set(np.bincount(groups, weights=choosing)) == {0.0, 4.0}
    assert choosing.sum() == 200
    # A bound counts images as independent: one of each group.
    apart = np.flatnonzero(~choosing)
    drawn = one_of_each_group(data, apart)
    assert set(drawn) <= set(apart)
    assert np.array_equal(groups[drawn], np.unique(groups[apart]))
    assert len({row % 4 for row in drawn.tolist()}) > 1  # at random, not the first of each
    assert np.array_equal(drawn, one_of_each_group(data, apart))
    assert np.array_equal(one_of_each_group(replace(data, train_groups=None), apart), apart)
    # One group of 80 and 220 single images: either side has the group.
    lopsided = replace(data, train_groups=np.maximum(np.arange(400) - 79, 0))
    choosing = choosing_images(lopsided, np.arange(300))
    assert (~choosing).sum() == 150
    assert len(set(choosing[:80])) == 1


def test_images_that_could_prove_no_threshold_choose() -> None:
    """A bound has one of each group, and those that 64 MiB hold: 45 are the fewest."""
    labels = np.arange(400) % 2
    grouped = replace(relabelled(labels), train_groups=np.arange(400) // 4)
    for groups, shared in ((90, True), (89, False)):
        assert bool(choosing_images(grouped, np.arange(4 * groups)).all()) is not shared
    for size, shared in ((704, True), (706, False)):  # 45.1 and 44.9 images
        spec = msgspec.structs.replace(dataset(5).input, size=size, resize=size, crop=size)
        test = {"test_images": np.zeros((1, size, size, 3), np.uint8), "test_labels": labels[:1]}
        data = replace(relabelled(labels), input=spec, **test)
        assert bool(choosing_images(data, np.arange(400)).all()) is not shared
