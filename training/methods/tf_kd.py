"""Teacher-free knowledge distillation with a virtual teacher (Tf-KD_reg).

Yuan et al., CVPR 2020 (arXiv 1909.11723), github.com/yuanli2333/Teacher-free-KD,
my_loss_function.py. Cost: none. The code divides probabilities, not logits, by T and averages the
divergence over all N·K entries, which makes the method label smoothing with another loss scale: of
CIFAR-100's 100 classes, for which the weights were chosen, smoothing 0.10 at scale 1.00 for
ResNet18, 0.16 at scale 0.06 for the compact networks. Here K is 100 in that average whatever the
classes are: the weights contain it, and with ten classes would smooth by 0.65.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from training.config.archs import MOBILENET, SHUFFLENET
from training.data.batches import Batch
from training.methods.method import Method, Setting, Student, Terms

_CORRECT = 0.99  # what the virtual teacher gives the label
_CLASSES = 100  # of CIFAR-100, in the authors' average


class Weights(NamedTuple):
    """The authors' settings for CIFAR-100 (experiments/*/params.json)."""

    alpha: float
    temperature: float
    multiplier: float


_WEIGHTS = {MOBILENET: Weights(0.95, 40.0, 1.0), SHUFFLENET: Weights(0.95, 10.0, 1.0)}
_OTHER_WEIGHTS = Weights(0.1, 20.0, 100.0)  # ResNet18's


class TfKd(Method):
    """(1 - α) CE + α · m · mean( p (log p - log σ(z)) ), p = σ(u / T), u = 0.99 on the label."""

    term_names = ("cross_entropy", "virtual_teacher")

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._weights = _WEIGHTS.get(setting.arch, _OTHER_WEIGHTS)

    def terms(self, student: Student, batch: Batch) -> Terms:
        """The cross-entropy, and the divergence from the virtual teacher."""
        logits = student(batch.images).logits
        alpha = self._weights.alpha
        return Terms(
            {
                "cross_entropy": (1 - alpha) * self.cross_entropy(logits, batch.labels),
                "virtual_teacher": alpha
                * virtual_teacher_loss(logits, batch.labels, self._weights),
            }
        )


def virtual_teacher_loss(logits: Tensor, labels: Tensor, weights: Weights) -> Tensor:
    """M times the divergence from the virtual teacher, the sum over N·K entries by N·100."""
    classes = logits.shape[1]
    given = torch.full_like(logits, (1 - _CORRECT) / (classes - 1), dtype=torch.float32)
    given.scatter_(1, labels[:, None], _CORRECT)
    teacher = F.softmax(given / weights.temperature, dim=1)
    log_student = F.log_softmax(logits.float(), dim=1)
    mean = F.kl_div(log_student, teacher, reduction="sum") / (len(logits) * _CLASSES)
    return weights.multiplier * mean
