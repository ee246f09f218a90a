"""Which answers of a file are accepted: its threshold, and how that is put in words."""

from typing import Annotated

import msgspec

Positive = Annotated[int, msgspec.Meta(gt=0)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]

LONE_FILE = "a lone ONNX file carries no threshold; name its bundle"


class Threshold(msgspec.Struct, frozen=True, kw_only=True):
    """The probability from which on the answers of one file or engine are accepted.

    Among accepted answers at most a share of `max_error` is wrong. This is a binomial bound, found
    on images that nothing else was chosen with. It holds for pictures of the model's classes that
    are mixed as those images are; it says nothing of pictures of other things.

    Attributes:
        probability: an answer is accepted if its first class has at least this probability.
        max_error: the largest share of wrong answers among the accepted ones.
        confidence: the probability with which the bound holds.
        coverage: the share of the images whose answers were accepted.
        images: how many images the bound was found on.
    """

    probability: Fraction
    max_error: Fraction
    confidence: Fraction
    coverage: Fraction
    images: Positive

    @property
    def words(self) -> str:
        """One line for people, without a final point."""
        return (
            f"accepts answers from {self.probability:.1%} on, {self.coverage:.0%} of "
            f"{self.images:,} validation images; with a probability of {self.confidence:g} at most "
            f"{self.max_error:.3g} of the accepted ones are wrong"
        )

    @property
    def refusal(self) -> str:
        """What is said of an answer that is not accepted."""
        return (
            f"Not sure enough: at {100 * self.max_error:.3g} % errors it answers "
            f"{100 * self.coverage:.0f} % of such pictures"
        )
