"""Class-wise self-knowledge distillation (CS-KD).

Yun et al., CVPR 2020 (arXiv 2003.13964), github.com/alinlab/cs-kd, train.py. Cost: a second
forward pass without gradients on as many partners, and twice the data. As in the code that pass is
in training mode, so it moves BatchNorm's running statistics too.
"""

import torch
from torch import Tensor

from training.methods.losses import softened_kl
from training.methods.peer import Peer, PeerBatch, Student, cross_entropy

_TEMPERATURE = 4.0
_WEIGHT = 1.0  # CIFAR-100; the fine-grained sets use 3


class CsKd(Peer):
    """CE(z(x), y) + λ T² KL( σ(z(x') / T), no gradient ‖ σ(z(x) / T) ), x' of the same class."""

    term_names = ("cross_entropy", "class_wise")
    needs_partners = True

    def terms(self, student: Student, batch: PeerBatch) -> dict[str, Tensor]:
        assert batch.partners is not None
        logits = student(batch.pixels).logits
        with torch.no_grad():
            partner = student(batch.partners).logits
        return {
            "cross_entropy": cross_entropy(logits, batch.labels),
            "class_wise": _WEIGHT * softened_kl(partner, logits, temperature=_TEMPERATURE),
        }
