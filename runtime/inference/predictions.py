"""The answer for one image: its classes with their probabilities, and what was warned of."""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import BackendError, ImageError, UserError


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """One class with its calibrated probability."""

    label: str
    index: int
    probability: float


class Predictions(list[Prediction]):
    """The classes of one image, the most probable first.

    Attributes:
        warnings: what is perhaps not meant as it was read, in sentences.
        accepted: whether the first class is as probable as the file's threshold asks; None if the
            file has no threshold.
    """

    warnings: Sequence[str] = ()
    accepted: bool | None = None


Answer = Predictions | ImageError


def require_numbers(probabilities: NDArray[np.float32], source: str) -> NDArray[np.float32]:
    """Returns `probabilities`, of any shape; `source` is the file that gave them.

    In float16 a picture that is unlike all test images may be too much for a layer. The order of
    what is no number would be that of the classes: the answer would be the first class.

    Raises:
        BackendError: one of them is not finite.
    """
    if not np.isfinite(probabilities).all():
        raise BackendError(
            f"{source} gives probabilities that are no numbers, expected 0 to 1: an overflow; "
            "use --precision fp32 (in Python precision='fp32')"
        )
    return probabilities


def check_top_k(top_k: int) -> int:
    """Returns `top_k`.

    Raises:
        UserError: it is below 1.
    """
    if top_k < 1:
        raise UserError(f"top_k {top_k} is out of range; expected 1 or more")
    return top_k
