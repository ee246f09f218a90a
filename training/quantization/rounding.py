"""Rounds tensors to the grids of int8, so that gradients pass.

A weight's step follows from the largest weight of its channel. An activation's step is learned, as
in "Learned Step Size Quantization" (LSQ; Esser et al., 2020, arXiv 1902.08153): its gradient is
that of the rounding error inside of the range, and that of the bound outside.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.quantization.qdq_rules import Grid

_SMALLEST_HALF = float(np.finfo(np.float16).tiny)  # of a step that float16 holds: never subnormal
_SMALLEST = float(np.finfo(np.float32).tiny)


def rounded_weights(weights: Tensor, grid: Grid) -> Tensor:
    """Weights (O, ...) on a grid of their own for each output channel O.

    The gradient is that of the weights themselves (straight-through).
    """
    levels = grid.weight_levels
    with torch.no_grad():
        step = weight_steps(weights, grid).view(-1, *[1] * (weights.dim() - 1))
        rounded = (weights / step).round().clamp(-levels, levels) * step
    return weights + (rounded - weights).detach()


def weight_steps(weights: Tensor, grid: Grid) -> Tensor:
    """The step (O,) of each output channel of weights (O, ...), without a gradient."""
    largest = weights.detach().flatten(1).abs().amax(dim=1)
    return representable(largest / grid.weight_levels, grid)


def rounded_bias(bias: Tensor, steps: Tensor) -> Tensor:
    """A bias (O,) in whole `steps` (O,), as integer kernels add it; straight-through.

    It moves a value by at most half of such a step, which is small. But it is the same for all
    values of a channel, and decides where many of them are rounded to.
    """
    return bias + ((bias / steps).round() * steps - bias).detach()


def representable(step: Tensor, grid: Grid) -> Tensor:
    """The step as the file holds it: for TensorRT as exact in float16, else as it is."""
    if not grid.signed:
        return step.clamp(min=_SMALLEST)
    exact = step.detach().clamp(min=_SMALLEST_HALF).half().float()
    return step + (exact - step).detach()


class RoundedActivation(torch.autograd.Function):
    """An activation on a grid whose step learns."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, step: Tensor, zero_point: Tensor, lowest: int, highest: int
    ) -> Tensor:
        """Rounds `values`, float32 (N, ...), by a `step` and an integer `zero_point`, scalars."""
        ctx.save_for_backward(values, step, zero_point)
        ctx.bounds = lowest, highest
        integers = (values / step).round() + zero_point
        return (integers.clamp(lowest, highest) - zero_point) * step

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the values and of the step.

        As in the paper, the step's is divided by the root of the number of values of an image and
        of integers, so that a large tensor does not move its step faster than its weights.
        """
        (gradient,) = gradients
        values, step, zero_point = ctx.saved_tensors
        lowest, highest = ctx.bounds
        scaled = values / step
        integers = scaled.round() + zero_point
        cut = integers.clamp(lowest, highest)
        inside = integers == cut
        of_step = torch.where(inside, cut - zero_point - scaled, cut - zero_point)
        share = (values[0].numel() * highest) ** -0.5
        return gradient * inside, (gradient * of_step).sum() * share, None, None, None
