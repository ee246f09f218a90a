"""Temperature calibration: one number that makes confidences honest.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
"""

import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import UserError
from runtime.model.figures import log_softmax

_LOWEST, _HIGHEST = 0.05, 20.0
_PRECISION = 1e-4  # of its logarithm


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float | None:
    """The temperature that minimises the negative log-likelihood of logits (N, K), labels (N,).

    The targets are Platt's, (N + 1) / (N + 2) for the label and the rest shared by the others: with
    hard targets a set that is classified without error would ask for a temperature of zero. None if
    no temperature from 0.05 to 20 is the best, as happens with a handful of images: the more even
    the answers, or the more certain, the better they would seem. UserError for logits that are not
    finite: a search among NaN would end anywhere and look like a fit.
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
