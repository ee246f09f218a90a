"""The auxiliary head: a light classifier on a middle feature map, present only in training."""

from torch import Tensor, nn
from torch.nn import functional as F

MAX_CHANNELS = 512
_EXPANSION = 2  # of each of the two blocks


class AuxiliaryHead(nn.Module):
    """Pool, two depthwise-separable convolutions of stride 2, global pool, linear.

    Its width follows the stage that it reads: C to 2C to 4C channels, at most 512. The pooling in
    front leaves a quarter of the positions to the first block, which keeps the head at a few per
    cent of a training step.
    """

    def __init__(self, channels: int, num_classes: int, *, width: float = 1.0) -> None:
        super().__init__()
        middle = _channels(channels * _EXPANSION * width)
        last = _channels(middle * _EXPANSION)
        self.blocks = nn.Sequential(
            separable_convolution(channels, middle), separable_convolution(middle, last)
        )
        self.classifier = nn.Linear(last, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, K) of a feature map (N, C, H, W)."""
        pooled = F.avg_pool2d(features, 2, ceil_mode=True)
        mapped: Tensor = self.blocks(pooled)
        logits: Tensor = self.classifier(mapped.mean(dim=(2, 3)))
        return logits


def _channels(wanted: float) -> int:
    """`wanted` as a multiple of 8 (tensor cores need it), at most 512."""
    return min(MAX_CHANNELS, max(8, round(wanted / 8) * 8))


def separable_convolution(channels: int, out_channels: int) -> nn.Sequential:
    """Depthwise 3x3 of stride 2, pointwise, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False),
        nn.Conv2d(channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
