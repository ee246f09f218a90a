"""Batch normalisation over the images of all processes: the recipe's `sync_batch_norm`.

torch's SyncBatchNorm refuses tensors on a CPU. This one needs nothing but the mean over processes.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Average = Callable[[list[Tensor]], None]  # replaces tensors by their means over the processes
_PLACES = (0, 2, 3)  # of (N, C, H, W): what is normalised together


class SyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose statistics in training are those of all processes together."""

    average: Average
    world_size: int

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), normalised; N is the same in all processes."""
        if not self.training:
            return super().forward(images)
        normalised, mean, variance = _Normalise.apply(images.float(), self.eps, self.average)
        self._remember(mean, variance, count=images.numel() // images.shape[1] * self.world_size)
        shape = (1, -1, 1, 1)
        whole: Tensor = normalised * self.weight.view(shape) + self.bias.view(shape)
        return whole.to(images.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, *, count: int) -> None:
        """Moves the running statistics; the variance is the unbiased one there, as in torch."""
        momentum = self.momentum or 0.0
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / max(1, count - 1)), momentum)
        self.num_batches_tracked.add_(1)


class _Normalise(torch.autograd.Function):
    """(x - μ) / √(σ² + ε) with μ and σ² of all processes (Ioffe and Szegedy, 2015, algorithm 1).

    The loss of a run is the mean of its processes' losses, and each process hands back the gradient
    of the sum: what is averaged afterwards is then the gradient of the mean.
    """

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, eps: float, average: Average
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean = images.mean(_PLACES)
        average([mean])
        centred = images - mean.view(1, -1, 1, 1)
        variance = centred.square().mean(_PLACES)
        average([variance])
        inverse = (variance + eps).rsqrt()
        normalised = centred * inverse.view(1, -1, 1, 1)
        ctx.save_for_backward(normalised, inverse)
        ctx.average = average
        ctx.mark_non_differentiable(mean, variance)
        return normalised, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, None, None]:
        normalised, inverse = ctx.saved_tensors
        mean, along = gradient.mean(_PLACES), (gradient * normalised).mean(_PLACES)
        ctx.average([mean, along])
        shape = (1, -1, 1, 1)
        left = gradient - mean.view(shape) - normalised * along.view(shape)
        return left * inverse.view(shape), None, None


def use_sync_batch_norm(network: nn.Module, average: Average, world_size: int) -> None:
    """Makes the batch normalisations of `network` those of all processes, in place."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Only the class changes. Hooks, parameters and names stay.
            module.__class__ = SyncBatchNorm
            assert isinstance(module, SyncBatchNorm)
            module.average, module.world_size = average, world_size
