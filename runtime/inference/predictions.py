"""The answer for one image: its classes with their probabilities, and what was warned of."""

from collections.abc import Sequence

import msgspec

from runtime.base.errors import ImageError, UserError


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


def check_top_k(top_k: int) -> int:
    """Returns `top_k`.

    Raises:
        UserError: it is below 1.
    """
    if top_k < 1:
        raise UserError(f"top_k {top_k} is out of range; expected 1 or more")
    return top_k
