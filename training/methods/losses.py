"""The losses that several methods share, as pure functions of logits.

All are computed in float32, also under autocast, and averaged over the batch. The teacher's side
never receives a gradient.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits (N, K), float32 scalar.

    Args:
        logits: (N, K).
        labels: int64 (N,), or probabilities (N, K).
        label_smoothing: the share of each target that is spread evenly over all classes.
    """
    return F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)


def softened_kl(teacher: Tensor, logits: Tensor, *, temperature: float) -> Tensor:
    """T² · KL( σ(teacher / T), no gradient ‖ σ(logits / T) ), the mean over rows, float32 scalar.

    Args:
        teacher: logits (N, K) of what teaches.
        logits: logits (N, K) of what learns.
        temperature: T; both are divided by it.
    """
    log_teacher = F.log_softmax(teacher.detach().float() / temperature, dim=1)
    log_student = F.log_softmax(logits.float() / temperature, dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def without_target(values: Tensor, labels: Tensor) -> Tensor:
    """Values (N, K) without each row's own class: (N, K - 1), in order."""
    count, classes = values.shape
    columns = torch.arange(classes - 1, device=values.device).expand(count, -1)
    return values.gather(1, columns + (columns >= labels[:, None]))
