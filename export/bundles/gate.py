"""The gate: how much a model file may differ from the trained student, by precision.

It needs NumPy only, because engines are verified on machines without torch and the data set.
Polygraphy's comparator is not used: it compares outputs by tolerances, and the gate also counts how
many labels are right.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.model.card import Parity, Precision


@dataclass(frozen=True)
class Tolerance:
    """What is allowed. The two shares always allow one image, however few images there are.

    Attributes:
        top1_drop: how much lower top-1 may be than the student's, as a share of all images.
        disagreement: the share of images on which the first class may differ.
        difference: the largest difference of any probability.
    """

    top1_drop: float = 1.0
    disagreement: float = 1.0
    difference: float = 1.0


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
    """Compares a file's probabilities, float32 (N, K), with the `reference` of torch.

    `labels`, int64 (N,), are the true classes. A row with a probability that is not finite counts
    as wrong, and such a probability as a difference of 1, the largest possible one.
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
    """In words what is outside the tolerance of `precision`; None if nothing is."""
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
