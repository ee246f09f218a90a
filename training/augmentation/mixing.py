"""Mixup and CutMix of whole batches, with a share of its own for each image.

Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018; Yun et al., "CutMix:
Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019.
"""

import numpy as np
import torch
from torch import Tensor

from training.augmentation.crops import Boxes, box_mask, draw_uniform

_QUANTILES = 4096


def mix(images: Tensor, labels: Tensor, keep: Tensor, *, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mixes each image with the one before it. In a shuffled batch, that is a random other one.

    Args:
        images: float32 (N, 3, H, W).
        labels: int64 (N,).
        keep: each pixel's share of its own image, float32 (N, 1, H or 1, W or 1).
        num_classes: K.

    Returns:
        Images like `images`, and float32 targets (N, K). A target's shares are the means of
        `keep`, so they follow the area exactly.
    """
    mixed = torch.lerp(images.roll(1, 0), images, keep)
    share = keep.mean(dim=(1, 2, 3))[:, None]
    own = torch.zeros(len(labels), num_classes, device=labels.device)
    own.scatter_(1, labels[:, None], 1.0)
    return mixed, torch.lerp(own.roll(1, 0), own, share)


def draw_mixup(images: Tensor, quantiles: Tensor, generator: torch.Generator) -> Tensor:
    """One share for all pixels of an image, as float32 (N, 1, 1, 1)."""
    return _draw_shares(len(images), quantiles, generator)[:, None, None, None]


def draw_cutmix(images: Tensor, quantiles: Tensor, generator: torch.Generator) -> Tensor:
    """0 inside a box and 1 outside of it, as float32 (N, 1, H, W).

    The box has the aspect of the image, and an area of 1 - share. Its centre is uniform in the
    image, and what would lie outside of the image is cut off.
    """
    count, (height, width) = len(images), images.shape[2:]
    half = 0.5 * torch.sqrt(1 - _draw_shares(count, quantiles, generator))
    edges = []
    for side in (height, width):
        centre = torch.floor(draw_uniform(count, generator) * side)
        reach = torch.floor(half * side)
        edges += [(centre - reach).clamp_min(0), (centre + reach).clamp_max(side)]
    top, bottom, left, right = edges
    boxes = Boxes(top, left, bottom - top, right - left)
    return 1.0 - box_mask(boxes, height=height, width=width).to(torch.float32)


def beta_quantiles(alpha: float, device: torch.device) -> Tensor:
    """4,096 equally probable values of Beta(alpha, alpha), float32 (4096,); for alpha 0, one 1.

    A share is drawn as one of them, because torch's Beta sampler takes no generator.
    """
    if not alpha:
        return torch.ones(1, device=device)
    from scipy import stats

    values = stats.beta.ppf((np.arange(_QUANTILES) + 0.5) / _QUANTILES, alpha, alpha)
    return torch.tensor(values, dtype=torch.float32, device=device)


def _draw_shares(count: int, quantiles: Tensor, generator: torch.Generator) -> Tensor:
    chosen = torch.randint(len(quantiles), (count,), generator=generator, device=generator.device)
    return quantiles[chosen]
