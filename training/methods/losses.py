"""The two self-distillation losses, as pure functions of logits.

DRG and DSR of "Lightweight Self-Knowledge Distillation with Multi-source Information Fusion"
(arXiv 2305.09183), defined as its authors' code defines them. All are computed in float32, also
under autocast, and averaged over the batch; the teacher's side never receives a gradient.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def drg_loss(logits: Tensor, auxiliary_logits: Tensor, *, temperature: float) -> Tensor:
    """Reverse guidance: the shallow head teaches the final one.

    T² · KL( σ(auxiliary_logits / T) ‖ σ(logits / T) ) of logits (N, K) and auxiliary logits (N, K),
    float32 scalar. The gradient reaches `logits` only.
    """
    return softened_kl(auxiliary_logits, logits, temperature=temperature)


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


def softened_kl(teacher: Tensor, logits: Tensor, *, temperature: float) -> Tensor:
    """T² · KL( σ(teacher / T), no gradient ‖ σ(logits / T) ), the mean over rows.

    Of logits (N, K) both; float32 scalar.
    """
    log_teacher = F.log_softmax(teacher.detach().float() / temperature, dim=1)
    log_student = F.log_softmax(logits.float() / temperature, dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2
