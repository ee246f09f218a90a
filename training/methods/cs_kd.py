"""Class-wise self-knowledge distillation (CS-KD).

Yun et al., CVPR 2020 (arXiv 2003.13964), github.com/alinlab/cs-kd, train.py. Cost: a second
forward pass without gradients on as many partners, and twice the data. As in the code that pass is
in training mode, so it moves BatchNorm's running statistics too.
"""

import torch

from training.data.batches import Batch
from training.methods.method import Method, Student, Terms, softened_kl

_TEMPERATURE = 4.0
_WEIGHT = 1.0  # CIFAR-100; the fine-grained sets use 3


class CsKd(Method):
    """CE(z(x), y) + λ T² KL( σ(z(x') / T), no gradient ‖ σ(z(x) / T) ), x' of the same class."""

    term_names = ("cross_entropy", "class_wise")
    needs_partners = True

    def terms(self, student: Student, batch: Batch) -> Terms:
        """The cross-entropy, and the divergence from the partners' answers."""
        assert batch.partners is not None
        logits = student(batch.images).logits
        with torch.no_grad():
            partner = student(batch.partners).logits
        return Terms(
            {
                "cross_entropy": self.cross_entropy(logits, batch.labels),
                "class_wise": _WEIGHT * softened_kl(partner, logits, temperature=_TEMPERATURE),
            }
        )
