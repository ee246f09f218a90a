"""Logits of every image of a split, and the temperature that calibrates them.

`runtime.model.figures` turns logits into figures.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from runtime.base.errors import UserError
from runtime.model.card import InputSpec
from runtime.model.figures import log_softmax
from training.augmentation.augment import channel_statistics, normalise

_CHUNK_PIXELS = 1 << 20  # of a batch of evaluation: 1,024 images of 32 px, 20 of 224 px
_LOWEST, _HIGHEST = 0.05, 20.0  # the temperatures that are tried
_PRECISION = 1e-4  # of the temperature's logarithm


def images_at_once(size: int) -> int:
    """How many images of `size` pixels make a batch of evaluation."""
    return max(1, _CHUNK_PIXELS // size**2)


def logits_of(
    student: nn.Module, images: NDArray[np.uint8], spec: InputSpec, *, device: torch.device
) -> NDArray[np.float32]:
    """Logits float32 (N, K) of all uint8 images (N, size, size, 3), in evaluation mode.

    The student's mode is restored afterwards.
    """
    mean, std = channel_statistics(spec, device)
    count = images_at_once(spec.size)
    was_training = student.training
    student.eval()
    logits = []
    with torch.inference_mode():
        for first in range(0, len(images), count):
            # A copy, because torch warns about arrays that are read-only maps.
            chunk = torch.from_numpy(np.array(images[first : first + count]))
            logits.append(student(normalise(chunk.to(device), mean, std)).float().cpu())
    student.train(was_training)
    return torch.cat(logits).numpy()


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float | None:
    """The temperature that minimises the negative log-likelihood of the labels.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2. The targets are
    softened as by Platt (1999, section 2.2): (N + 1) / (N + 2) for the label, and the rest for the
    other classes. With hard targets, the temperature would be zero where all answers are right.

    Args:
        logits: (N, K).
        labels: int64 (N,).

    Returns:
        The temperature, or None if none from 0.05 to 20 is the best. That happens with a handful of
        images, for which the likelihood grows up to the highest or the lowest temperature.

    Raises:
        UserError: if a logit is not finite; the search would end anywhere and look like a fit.
    """
    from scipy.optimize import minimize_scalar

    if broken := int((~np.isfinite(logits)).any(axis=1).sum()):
        raise UserError(
            f"{broken} of {len(logits)} rows of logits are not finite: no temperature fits them; "
            "the student has diverged: train again with a lower learning_rate"
        )
    count, classes = logits.shape
    scores = logits.astype(np.float64)
    targets = np.full((count, classes), 1 / (count + 2) / max(1, classes - 1))
    targets[np.arange(count), labels] = (count + 1) / (count + 2)

    def loss(log_temperature: float) -> float:
        log_probabilities = log_softmax(scores, temperature=float(np.exp(log_temperature)))
        return float(-(targets * log_probabilities).sum(axis=1).mean())

    bounds = (np.log(_LOWEST), np.log(_HIGHEST))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": _PRECISION})
    if min(abs(found.x - bound) for bound in bounds) < 10 * _PRECISION:
        return None
    return float(np.exp(found.x))
