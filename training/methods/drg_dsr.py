"""The product's own methods: cross-entropy, and the two self-distillation terms that go with it.

"Lightweight Self-Knowledge Distillation with Multi-source Information Fusion" (arXiv 2305.09183),
as its authors' code defines it. A run of `--drg --dsr` minimises

    CE(logits, y) + CE(auxiliary, y) + α · drg_loss + β · dsr_loss

where the terms of a method that is not chosen are absent, together with its modules. The recipe's
keys are `drg_weight` (α), `dsr_weight` (β) and `temperature` (T).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.data.batches import Batch
from training.methods.method import (
    STAGES,
    Method,
    Setting,
    Student,
    Terms,
    cross_entropy,
    softened_kl,
)
from training.networks.layers import separable_convolution

MAX_CHANNELS = 512
_EXPANSION = 2  # of each of the two blocks


class CrossEntropy(Method):
    """CE(logits, y), smoothed by the recipe's `label_smoothing`."""

    term_names = ("cross_entropy",)

    def terms(self, student: Student, batch: Batch) -> Terms:
        """The cross-entropy of the output."""
        logits = student(batch.images).logits
        smoothing = self.setting.recipe.label_smoothing
        return Terms(
            {"cross_entropy": cross_entropy(logits, batch.labels, label_smoothing=smoothing)}
        )


def drg_loss(logits: Tensor, auxiliary_logits: Tensor, *, temperature: float) -> Tensor:
    """Reverse guidance: the shallow head teaches the final one.

    T² · KL( σ(auxiliary_logits / T) ‖ σ(logits / T) ) of logits (N, K) and auxiliary logits (N, K),
    float32 scalar. The gradient reaches `logits` only.
    """
    return softened_kl(auxiliary_logits, logits, temperature=temperature)


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
    """`wanted` as a multiple of 8, which tensor cores need, and at most 512."""
    return min(MAX_CHANNELS, max(8, round(wanted / 8) * 8))


class Drg(Method):
    """CE(auxiliary, y) + α · drg_loss: distillation with reverse guidance.

    The auxiliary head reads the stage `tap`. With `drg_weight` 0 only the head's cross-entropy is
    left, which is deep supervision.
    """

    term_names = ("auxiliary_cross_entropy", "drg")

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        recipe = setting.recipe
        self._stage = STAGES[recipe.tap - 1]
        self.head = AuxiliaryHead(
            setting.channels[self._stage], setting.num_classes, width=recipe.head_width
        )
        # The student's feature maps are channels last, too.
        self.head.to(memory_format=torch.channels_last)

    @property
    def reads(self) -> tuple[str, ...]:
        return (self._stage,)

    def terms(self, student: Student, batch: Batch) -> Terms:
        """The head's cross-entropy, and the divergence of the output from the head."""
        recipe = self.setting.recipe
        outputs = student(batch.images)
        auxiliary = self.head(outputs.features[self._stage])
        guidance = drg_loss(outputs.logits, auxiliary, temperature=recipe.temperature)
        smoothing = recipe.label_smoothing
        return Terms(
            {
                "auxiliary_cross_entropy": cross_entropy(
                    auxiliary, batch.labels, label_smoothing=smoothing
                ),
                "drg": recipe.drg_weight * self.setting.scale * guidance,
            }
        )


def dsr_loss(logits: Tensor, previous_ranked: Tensor, *, temperature: float) -> Tensor:
    """Shape-wise regularization: the ranked output keeps the shape of an earlier one.

    T² · KL( σ(previous_ranked / T) ‖ σ(sort(logits) / T) ) of logits (N, K) and ranked logits
    (N, K) or (1, K), one shape for all rows; float32 scalar. The gradient reaches `logits` only.
    """
    shape, _ = torch.sort(logits.float(), dim=1)
    return softened_kl(previous_ranked.expand_as(shape), shape, temperature=temperature)


def ranked(logits: Tensor) -> Tensor:
    """Logits (N, K) sorted ascending in each row, float32, detached: the next batch's teacher."""
    values, _ = torch.sort(logits.detach().float(), dim=1)
    return values


class Dsr(Method):
    """β · dsr_loss against the ranking that is remembered of earlier batches.

    The recipe's `dsr_teacher` chooses what is remembered. The authors' code keeps the previous
    batch row by row ("previous"). Their abstract asks for "a consistent shape of ranked model
    output for all data", which the batch's mean shape ("mean") and its moving average ("ema", of
    `dsr_momentum`) take literally.
    """

    term_names = ("dsr",)

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        recipe = setting.recipe
        rows = recipe.batch_size if recipe.dsr_teacher == "previous" else 1
        self.add_memory("ranked", torch.zeros(rows, setting.num_classes, device=setting.device))
        self.add_memory("updates", torch.zeros((), device=setting.device))

    @property
    def averaged_memory(self) -> tuple[str, ...]:
        # A shape of all rows is one for all processes; rows belong to their own process.
        return () if self.setting.recipe.dsr_teacher == "previous" else ("ranked",)

    def terms(self, student: Student, batch: Batch) -> Terms:
        """The divergence from what is remembered; 0 for the first batch, which has no teacher."""
        recipe = self.setting.recipe
        logits = student(batch.images).logits
        divergence = dsr_loss(logits, self.get_buffer("ranked"), temperature=recipe.temperature)
        present = self.get_buffer("updates").clamp(max=1.0)
        # A compiler sees that the loss has sorted the same logits already.
        return Terms(
            {"dsr": recipe.dsr_weight * self.setting.scale * present * divergence},
            {"ranked": self._shape_of(logits)},
        )

    def remember(self, memory: Mapping[str, Tensor], stored: Batch) -> None:
        """Takes over the shape of the batch that was just learned from."""
        own, updates = self.get_buffer("ranked"), self.get_buffer("updates")
        updates += 1
        if self.setting.recipe.dsr_teacher == "ema":
            # The first updates average evenly, so the zeros at the start never weigh in.
            momentum = self.setting.recipe.dsr_momentum
            own.lerp_(memory["ranked"], torch.clamp(1 / updates, min=1 - momentum))
        else:
            own.copy_(memory["ranked"])

    def _shape_of(self, logits: Tensor) -> Tensor:
        """The ranked logits of a batch (N, K), or their mean (1, K)."""
        rows = ranked(logits)
        previous = self.setting.recipe.dsr_teacher == "previous"
        return rows if previous else rows.mean(dim=0, keepdim=True)
