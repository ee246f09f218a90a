"""The gate: what a model file may differ from the trained student, by precision.

Needs NumPy only, since engines are verified where neither torch nor the data set is.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.model.card import Parity, Precision


@dataclass(frozen=True)
class Tolerance:
    """What is allowed; of counted things at least one image, however few there are."""

    top1_drop: float = 1.0
    disagreement: float = 1.0
    difference: float = 1.0  # of any probability


TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(disagreement=0.001, difference=1e-4),
    "fp16": Tolerance(top1_drop=0.002),
    "int8": Tolerance(top1_drop=0.01),
    "int8-cpu": Tolerance(top1_drop=0.01),
}
_ROUNDING = 1e-9


def compare(
    probabilities: NDArray[np.float32],
    reference: NDArray[np.float32],
    labels: NDArray[np.int64],
) -> Parity:
    """A file's probabilities (N, K) beside torch's, for images of the classes `labels` (N,).

    A probability that is not a number counts as a difference of 1, the largest there is.
    """
    difference = np.abs(probabilities - reference)
    difference = np.where(np.isfinite(difference), difference, 1.0)
    first, expected = probabilities.argmax(axis=1), reference.argmax(axis=1)
    finite = np.isfinite(probabilities).all(axis=1)
    return Parity(
        images=len(labels),
        top1=float(np.mean((first == labels) & finite)),
        reference_top1=float(np.mean(expected == labels)),
        agreement=float(np.mean((first == expected) & finite)),
        max_difference=float(difference.max()),
    )


def complaint(parity: Parity, precision: Precision) -> str | None:
    """What is outside the tolerance of `precision`; None if nothing is."""
    tolerance = TOLERANCES[precision]
    one_image = 1 / parity.images
    drop = parity.reference_top1 - parity.top1
    found = []
    if drop > max(tolerance.top1_drop, one_image) + _ROUNDING:
        found.append(
            f"top-1 {parity.top1:.2%} is {100 * drop:.2f} points below the student's "
            f"{parity.reference_top1:.2%} (allowed {100 * tolerance.top1_drop:.1f})"
        )
    if 1 - parity.agreement > max(tolerance.disagreement, one_image) + _ROUNDING:
        found.append(
            f"it agrees with the student on {parity.agreement:.2%} of {parity.images} images "
            f"(needed {1 - tolerance.disagreement:.1%})"
        )
    if parity.max_difference > tolerance.difference:
        found.append(
            f"a probability differs by {parity.max_difference:.1e} "
            f"(allowed {tolerance.difference:.0e})"
        )
    return "; ".join(found) or None
