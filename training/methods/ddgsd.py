"""Data-distortion guided self-distillation (DDGSD).

Xu and Liu, AAAI 2019. Cost: two augmentations of every image, so a step does twice the work. The
MMD is that of linear kernels, the squared distance of the two batches' mean feature vectors;
github.com/winycg/Self-KD-Lib takes means over the channels too, which leaves almost nothing.
"""

import torch
from torch import Tensor

from training.data.batches import Batch
from training.methods.method import LAST, Method, Student, Terms, softened_kl

_TEMPERATURE = 3.0
_DISTILLATION = 1.0
_DISCREPANCY = 5e-4


class Ddgsd(Method):
    """CE(a) + CE(b) + λ T² [ KL(b ‖ a) + KL(a ‖ b) ] + μ ‖mean f_a - mean f_b‖²."""

    term_names = ("cross_entropy", "mutual", "discrepancy")

    @property
    def reads(self) -> tuple[str, ...]:
        return (LAST,)

    def partner_images(self, stored: Batch) -> Tensor | None:
        """The same images once more: they come in a second augmentation."""
        return stored.images

    def terms(self, student: Student, batch: Batch) -> Terms:
        """The terms of two augmentations, which pass through the student together."""
        assert batch.partners is not None
        views = torch.cat([batch.images, batch.partners])
        seen = student(views)
        first, second = seen.logits.chunk(2)
        pooled = seen.features[LAST].float().mean(dim=(2, 3))
        means = [half.mean(dim=0) for half in pooled.chunk(2)]
        mutual = softened_kl(second, first, temperature=_TEMPERATURE)
        mutual = mutual + softened_kl(first, second, temperature=_TEMPERATURE)
        entropy = self.cross_entropy(first, batch.labels) + self.cross_entropy(second, batch.labels)
        return Terms(
            {
                "cross_entropy": entropy,
                "mutual": _DISTILLATION * mutual,
                "discrepancy": _DISCREPANCY * (means[0] - means[1]).square().sum(),
            }
        )
