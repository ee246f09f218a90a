"""Be your own teacher (BYOT).

Zhang et al., ICCV 2019 (arXiv 1905.08094), in the settings of github.com/luanyunteng/pytorch-be-
your-own-teacher, train.py. Cost: a branch with a classifier on each of the first three stages.
"""

import torch
from torch import Tensor, nn

from training.data.batches import Batch
from training.methods.method import (
    LAST,
    STAGES,
    Method,
    Setting,
    Student,
    Terms,
    softened_kl,
)
from training.networks.layers import separable_convolution

_BRANCHES = STAGES[:3]
_ALPHA = 0.1
_TEMPERATURE = 3.0
_HINT = 1e-6  # of squared errors summed over the batch, as in the code


class Branch(nn.Module):
    """From a stage's map to a feature vector as wide as the student's own, and to logits."""

    def __init__(self, channels: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            separable_convolution(channels, 2 * channels),
            separable_convolution(2 * channels, width),
        )
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Feature vectors (N, width) and logits (N, K) of a map (N, C, H, W)."""
        vectors = self.blocks(features).mean(dim=(2, 3))
        return vectors, self.classifier(vectors)


class Byot(Method):
    """Σ (1 - α) CE(q_i) + α Σ T² KL( q_last ‖ q_i ) + λ Σ ‖F_i - F_last‖², deep teaches shallow."""

    term_names = ("cross_entropy", "branches", "distillation", "hint")

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        width = setting.channels[LAST]
        self.branches = nn.ModuleDict(
            {
                stage: Branch(setting.channels[stage], width, setting.num_classes)
                for stage in _BRANCHES
            }
        )

    @property
    def reads(self) -> tuple[str, ...]:
        return (*_BRANCHES, LAST)

    def terms(self, student: Student, batch: Batch) -> Terms:
        """The cross-entropies, the divergences of the branches from the output, and the hint."""
        seen = student(batch.images)
        deepest = torch.relu(seen.features[LAST].float()).mean(dim=(2, 3))
        outputs = [self.branches[stage](seen.features[stage]) for stage in _BRANCHES]
        shallow = [logits for _, logits in outputs]
        entropies = torch.stack([self.cross_entropy(logits, batch.labels) for logits in shallow])
        divergences = torch.stack(
            [softened_kl(seen.logits, logits, temperature=_TEMPERATURE) for logits in shallow]
        )
        hints = torch.stack([hint_loss(vectors, deepest) for vectors, _ in outputs])
        return Terms(
            {
                "cross_entropy": (1 - _ALPHA) * self.cross_entropy(seen.logits, batch.labels),
                "branches": (1 - _ALPHA) * entropies.sum(),
                "distillation": _ALPHA * divergences.sum(),
                "hint": _HINT * hints.sum(),
            }
        )


def hint_loss(vectors: Tensor, deepest: Tensor) -> Tensor:
    """Squared error of vectors (N, C), summed where either is positive; teaches `vectors` only."""
    teacher = deepest.detach()
    errors = (vectors.float() - teacher).square()
    return torch.where((vectors > 0) | (teacher > 0), errors, 0.0).sum()
