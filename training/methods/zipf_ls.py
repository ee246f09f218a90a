"""Zipf's label smoothing (ZipfLS).

Liang et al., ECCV 2022 (arXiv 2207.12980), github.com/megvii-research/zipfls, losses.py. Cost: the
classifier at every position of the last feature map at twice its resolution; no parameters. The
authors rank on the CPU; here it is tensor operations, without gradients as theirs.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from runtime.base.errors import UserError
from training.data.batches import Batch
from training.methods.method import LAST, Method, Setting, Student, Terms, without_target

_WEIGHT = 0.1  # CIFAR-100; TinyImageNet 1.0
_UPSAMPLING = 2
_FEWEST_CLASSES = 3  # of two, one is left beside the label, and its share is always 1


class ZipfLs(Method):
    """CE + λ KL( Zipf of the votes' ranks ‖ σ(z) ), both over all classes but the label."""

    term_names = ("cross_entropy", "zipf")

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        if setting.num_classes < _FEWEST_CLASSES:
            raise UserError(
                f"the method zipf-ls ranks the classes beside the label, of which there is one "
                f"here; expected {_FEWEST_CLASSES} classes or more; choose another method"
            )

    @property
    def reads(self) -> tuple[str, ...]:
        return (LAST,)

    def terms(self, student: Student, batch: Batch) -> Terms:
        """The cross-entropy, and the divergence from Zipf's law over the votes."""
        seen = student(batch.images)
        with torch.no_grad():
            target = zipf_of_votes(self._votes(seen.features[LAST]), batch.labels)
        log_others = F.log_softmax(without_target(seen.logits.float(), batch.labels), dim=1)
        divergence = F.kl_div(log_others, target, reduction="batchmean")
        return Terms(
            {
                "cross_entropy": self.cross_entropy(seen.logits, batch.labels),
                "zipf": _WEIGHT * divergence,
            }
        )

    def _votes(self, features: Tensor) -> Tensor:
        """How many positions vote for each class: (N, K)."""
        dense = F.interpolate(
            F.relu(features.float()), scale_factor=_UPSAMPLING, mode="bilinear", align_corners=False
        )
        classifier = self.setting.classifier
        positions = dense.flatten(2).transpose(1, 2)  # (N, H·W, C)
        # Rounded to bf16, close classes would be equal, and the first of them get every vote.
        with torch.autocast(positions.device.type, enabled=False):
            logits = F.linear(positions, classifier.weight.float(), classifier.bias.float())
        chosen = logits.argmax(dim=2)
        return F.one_hot(chosen, logits.shape[2]).sum(dim=1)


def zipf_of_votes(votes: Tensor, labels: Tensor) -> Tensor:
    """Probabilities (N, K - 1) of the other classes by 1 / rank among all; ties share a rank.

    The label takes part in the ranking and is dropped after it, as in the authors' `gen_pdf`: where
    it has the most votes, the others begin at rank 2.
    """
    # A class's rank is one more than the number of classes with more votes.
    ranks = 1 + (votes[:, None, :] > votes[:, :, None]).sum(dim=2)
    weights = without_target(1.0 / ranks, labels)
    return weights / weights.sum(dim=1, keepdim=True)
