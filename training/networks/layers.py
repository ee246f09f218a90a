"""Layers: the block of light heads, and forms of torch's layers that train faster.

The fast forms have the same parameters and the same results. Only training changes: in evaluation
mode, and so in everything that is exported, the layers are torch's own.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.shufflenetv2 import InvertedResidual


def separable_convolution(channels: int, out_channels: int) -> nn.Sequential:
    """Depthwise 3x3 of stride 2, pointwise, BatchNorm, ReLU: (N, C, H, W) to half the size."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False),
        nn.Conv2d(channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class PointwiseConvolution(nn.Conv2d):
    """A 1x1 convolution as the matrix product that it is in channels last."""

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to (N, out_channels, H, W)."""
        if not self.training:
            return super().forward(images)
        return F.linear(images.permute(0, 2, 3, 1), self.weight[:, :, 0, 0]).permute(0, 3, 1, 2)


class UncountedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation that does not count its batches (see `batch_counters`).

    With a momentum, only the state dict reads the counter, and counting costs a kernel a layer.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W), normalised."""
        if not self.training:
            return super().forward(images)
        statistics = (self.running_mean, self.running_var)
        return F.batch_norm(
            images, *statistics, self.weight, self.bias, True, self.momentum or 0.0, self.eps
        )


class ChannelsLastUnit(InvertedResidual):  # type: ignore[misc]  # torchvision has no types
    """A unit of ShuffleNetV2 that gives channels last maps, and gradients in the same layout.

    Torchvision's shuffle gives its maps the layout (N, C, H, W). All that follows, and the whole
    backward pass, then mixes two layouts, for which a CPU has slow kernels only.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) to (N, out_channels, H, W)."""
        if not self.training:
            plain: Tensor = super().forward(x)
            return plain
        left, right = x.chunk(2, dim=1) if self.stride == 1 else (self.branch1(x), x)
        shuffled: Tensor = _Interleave.apply(left, self.branch2(right))
        return shuffled


class _Interleave(torch.autograd.Function):
    """Two maps (N, C, H, W) to (N, 2C, H, W), channels by turns and last, as the gradients are."""

    @staticmethod
    def forward(_ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        pairs = torch.stack([image.permute(0, 2, 3, 1) for image in (left, right)], dim=4)
        return pairs.flatten(3).permute(0, 3, 1, 2)

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        left, right = gradient[:, ::2], gradient[:, 1::2]
        layout = {"memory_format": torch.channels_last}
        return left.contiguous(**layout), right.contiguous(**layout)


class InPlaceReLU6(nn.ReLU6):
    """ReLU6 that keeps its result for the backward pass.

    Torch's own keeps a copy of what came in. The result tells as well where the slope is 1.
    """

    def forward(self, images: Tensor) -> Tensor:
        """The given tensor, limited to 0 to 6."""
        if not self.training:
            return super().forward(images)
        limited: Tensor = _Limit.apply(images)
        return limited


class _Limit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        images.clamp_(0.0, 6.0)
        ctx.mark_dirty(images)
        ctx.save_for_backward(images)
        return images

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        slope: Tensor = torch.ops.aten.hardtanh_backward(gradient, *ctx.saved_tensors, 0.0, 6.0)
        return slope


def use_cpu_layers(network: nn.Module) -> None:
    """Gives the layers of `network` the forms that are faster on a CPU, in place."""
    for module in network.modules():
        if type(module) is InvertedResidual:
            module.__class__ = ChannelsLastUnit
        elif type(module) is nn.ReLU6 and module.inplace:
            module.__class__ = InPlaceReLU6


def use_fast_layers(network: nn.Module) -> None:
    """Gives the layers of `network` the forms that are faster on a GPU, in place."""
    for module in network.modules():
        # Only the class changes. Hooks, parameters and names stay.
        if type(module) is nn.BatchNorm2d and module.momentum is not None:
            module.__class__ = UncountedBatchNorm
        elif type(module) is nn.Conv2d and _is_pointwise(module):
            module.__class__ = PointwiseConvolution


def batch_counters(network: nn.Module) -> list[Tensor]:
    """The counters that fast layers do not update; the step adds one to all of them at once."""
    layers = (module for module in network.modules() if isinstance(module, UncountedBatchNorm))
    return [layer.num_batches_tracked for layer in layers if layer.num_batches_tracked is not None]


def _is_pointwise(module: nn.Conv2d) -> bool:
    plain = module.stride == (1, 1) and module.groups == 1 and module.bias is None
    return plain and module.kernel_size == (1, 1) and module.padding == (0, 0)
