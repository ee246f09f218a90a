"""Universal self-knowledge distillation (USKD).

Yang et al., ICCV 2023 (arXiv 2303.13005), github.com/yzd-v/cls_KD, mmcls/models/dis_losses/uskd.py
and configs/distillers. Cost: one linear layer on the pooled map before the last.

The ranking is the formula's, of probabilities; the code's variable holds the student's
log-probabilities by then, which orders other classes than the first differently.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.data.batches import Batch
from training.methods.method import (
    BEFORE_LAST,
    Method,
    Setting,
    Student,
    Terms,
    without_target,
)

_TARGET = _NON_TARGET = _WEAK = 0.1  # CIFAR-100
_SMOOTHING = 0.1
_TINY = 1e-6


class Uskd(Method):
    """CE - a p_t log s_t - b Σ p_k log s'_k + μ CE(w, y smoothed).

    s are the student's probabilities and s' those of its other classes, w the weak logits of the
    map before the last. p_t is s_t² + 1 less the batch's mean s_t²; p is Zipf's law over both
    networks' ranking.
    """

    term_names = ("cross_entropy", "target", "non_target", "weak")

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.weak = nn.Linear(setting.channels[BEFORE_LAST], setting.num_classes)

    @property
    def reads(self) -> tuple[str, ...]:
        return (BEFORE_LAST,)

    def terms(self, student: Student, batch: Batch) -> Terms:
        """The cross-entropies of both classifiers and the two distillation terms."""
        seen = student(batch.images)
        logits, labels = seen.logits.float(), batch.labels
        weak = self.weak(seen.features[BEFORE_LAST].float().mean(dim=(2, 3)))
        own = F.log_softmax(logits, dim=1).gather(1, labels[:, None]).squeeze(1)
        target = target_of(own.detach().exp())
        others = F.log_softmax(without_target(logits, labels), dim=1)
        with torch.no_grad():
            zipf = zipf_of_ranking(logits.softmax(dim=1), weak.softmax(dim=1), labels)
        return Terms(
            {
                "cross_entropy": self.cross_entropy(logits, labels),
                "target": -_TARGET * (target * own).mean(),
                "non_target": -_NON_TARGET * (zipf * others).sum(dim=1).mean(),
                "weak": _WEAK * self.cross_entropy(weak, labels, label_smoothing=_SMOOTHING),
            }
        )


def target_of(probabilities: Tensor) -> Tensor:
    """Soft targets (N,) of the labels' own probabilities (N,): their squares with mean one."""
    squares = probabilities.square()
    return squares + 1 - squares.mean()


def zipf_of_ranking(strong: Tensor, weak: Tensor, labels: Tensor) -> Tensor:
    """Zipf's law (N, K - 1) over the other classes, ranked by both probabilities (N, K).

    The label takes part in the ranking, is dropped, and the rest is normalised.
    """
    scores = sum(
        values / (1 - values.gather(1, labels[:, None])).clamp(min=_TINY)
        for values in (strong, weak)
    )
    assert isinstance(scores, Tensor)
    ranks = 1 + scores.argsort(dim=1, descending=True).argsort(dim=1)
    weights = without_target(1.0 / ranks, labels)
    return weights / weights.sum(dim=1, keepdim=True)
