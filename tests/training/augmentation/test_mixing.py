"""Mixup and CutMix: shares, areas and targets."""

import pytest
import torch
from scipy import stats
from torch import Tensor

from runtime.model.card import InputSpec
from training.augmentation.augment import Augmentation
from training.augmentation.mixing import beta_quantiles, draw_cutmix, draw_mixup, mix

CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(30, 3, 8, 12, generator=generator(5))


@pytest.fixture
def labels() -> Tensor:
    return torch.randint(7, (30,), generator=generator(6))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_are_beta_distributed(alpha: float) -> None:
    quantiles = beta_quantiles(alpha, CPU)
    drawn = draw_mixup(torch.empty(20_000, 3, 1, 1), quantiles, generator()).flatten().numpy()
    low = drawn[drawn < 0.5]  # float32 rounds the highest shares to 1
    assert abs(len(low) - 10_000) < 4 * 71  # Binomial(20,000, 0.5)
    # Kolmogorov-Smirnov: 10,000 true draws differ by more than 0.0195 once in a thousand times.
    beta = stats.beta(alpha, alpha)
    assert stats.kstest(low, lambda share: beta.cdf(share) / 0.5).statistic < 0.0195
    assert drawn.var() == pytest.approx(beta.var(), rel=0.04)


def test_mixing_is_the_sum_of_both_images_by_share(images: Tensor, labels: Tensor) -> None:
    keep = torch.rand(30, 1, 8, 12, generator=generator(1))
    mixed, targets = mix(images, labels, keep, num_classes=7)
    for n in range(30):
        wanted = keep[n] * images[n] + (1 - keep[n]) * images[n - 1]
        assert torch.allclose(mixed[n], wanted, atol=1e-6)
        target = torch.zeros(7)
        share = keep[n].mean()
        target[labels[n]] += share
        target[labels[n - 1]] += 1 - share
        assert torch.allclose(targets[n], target, atol=1e-6)


def test_cutmix_targets_are_the_areas_that_are_seen(images: Tensor, labels: Tensor) -> None:
    keep = draw_cutmix(images, beta_quantiles(1.0, CPU), generator(2))
    mixed, targets = mix(images, labels, keep, num_classes=7)
    areas = set()
    for n in range(30):
        own = (mixed[n] == images[n]).all(dim=0)
        other = (mixed[n] == images[n - 1]).all(dim=0)
        assert (own ^ other).all()
        rows, columns = other.any(dim=1).sum(), other.any(dim=0).sum()
        assert other.sum() == rows * columns  # the other's pixels form one rectangle
        target = torch.zeros(7)
        target[labels[n]] += own.float().mean()
        target[labels[n - 1]] += other.float().mean()
        assert torch.allclose(targets[n], target, atol=1e-6)
        areas.add(int(other.sum()))
    assert len(areas) > 10  # each image has a box of its own


def test_cutmix_boxes_are_as_large_as_in_the_paper() -> None:
    """The mean area that is kept, compared with boxes drawn one by one as in the paper."""
    side, count = 32, 20_000
    keep = draw_cutmix(torch.empty(count, 3, side, side), beta_quantiles(1.0, CPU), generator())
    random = torch.rand(count, 3, generator=generator(9)).tolist()
    total = 0.0
    for share, y, x in random:
        reach = int(0.5 * (1 - share) ** 0.5 * side)
        top, left = max(int(y * side) - reach, 0), max(int(x * side) - reach, 0)
        bottom, right = min(int(y * side) + reach, side), min(int(x * side) + reach, side)
        total += 1 - (bottom - top) * (right - left) / side**2
    # The standard deviation of the share is 0.23, of the difference of two means 0.0023.
    assert keep.mean().item() == pytest.approx(total / count, abs=0.009)


def test_mixup_has_one_share_an_image(images: Tensor) -> None:
    keep = draw_mixup(images, beta_quantiles(1.0, CPU), generator())
    assert keep.shape == (30, 1, 1, 1)
    assert len(set(keep.flatten().tolist())) > 25


def test_targets_sum_to_one(images: Tensor, labels: Tensor) -> None:
    keep = draw_cutmix(images, beta_quantiles(0.3, CPU), generator())
    _, targets = mix(images, labels, keep, num_classes=7)
    assert torch.allclose(targets.sum(dim=1), torch.ones(30), atol=1e-6)
    assert targets.min() >= 0


def test_a_share_of_one_changes_nothing(images: Tensor, labels: Tensor) -> None:
    mixed, targets = mix(images, labels, torch.ones(30, 1, 1, 1), num_classes=7)
    assert torch.equal(mixed, images)
    assert torch.equal(targets, torch.nn.functional.one_hot(labels, 7).float())


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_images_is_mixed(share: float) -> None:
    half = (0.5, 0.5, 0.5)
    spec = InputSpec(size=16, resize=16, crop=16, mean=half, std=half)
    pixels = torch.randint(256, (399, 16, 16, 3), generator=generator(3), dtype=torch.uint8)
    labels = torch.arange(399) % 7  # no image follows one of its class

    def augment(**changes: object) -> tuple[Tensor, Tensor]:
        own = Augmentation(input=spec, device=CPU, cutmix=1.0, **changes)  # type: ignore[arg-type]
        return own.augment(pixels, labels, 7, generator(4))

    images, targets = augment(mix_share=torch.tensor(share))
    mixed = targets.amax(dim=1) < 1
    all_mixed = augment()[1].amax(dim=1) < 1  # but for boxes that are empty
    assert mixed.float().mean().item() == pytest.approx(
        share * all_mixed.float().mean().item(), abs=0.07
    )
    assert torch.equal(mixed & all_mixed, mixed)
    plain, _ = Augmentation(input=spec, device=CPU).augment(pixels, labels, 7, generator(4))
    assert torch.equal(images[~mixed], plain[~mixed])
    assert torch.equal(targets[~mixed].argmax(dim=1), labels[~mixed])
    if share == 1:  # the draws of mixing itself come first, and are the same
        assert torch.equal(images, augment()[0])
