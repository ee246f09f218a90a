"""The answer for one image: its classes with their probabilities, and what was warned of."""

from collections.abc import Sequence

import msgspec

from runtime.base.errors import ImageError


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
