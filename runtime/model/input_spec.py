"""How a picture becomes the network's input, as plain data: `runtime.model.preprocess` does it."""

import math
from typing import Annotated, Literal, get_args

import msgspec

Fit = Literal["crop", "letterbox", "stretch"]
FITS: tuple[Fit, ...] = get_args(Fit)
_WHITE = 255
Positive = Annotated[int, msgspec.Meta(gt=0)]


class InputSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How an image becomes the network's input.

    The input is a square, and most pictures are none. `fit` says what becomes of the rest:

    - "crop": the centred square whose edge is `crop / resize` of the image's short side is resized
      to `size` x `size` pixels. It is the region that remains when the short side is resized to
      `resize` and the centre is cut to `crop`, but it is resized once instead of twice.
    - "letterbox": the whole picture is resized, its long side to `size`. It lies in the middle of
      the square, and the rest of the square is of one colour, `fill`.
    - "stretch": the whole picture is resized to the square, and its proportions are lost.

    Attributes:
        size: edge of the network's input in pixels.
        resize: see above, in pixels.
        crop: see above, in pixels; at most `resize`, and equal to it where nothing is cut off.
        interpolation: of the resize.
        fit: see above. Cards that do not state it mean "crop".
        mean: of each RGB channel of images in [0, 1]. The graph subtracts it, never a caller.
        std: of each RGB channel of images in [0, 1]. The graph divides by it, never a caller.
    """

    size: Positive
    resize: Positive
    crop: Positive
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    fit: Fit = "crop"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.crop > self.resize:
            raise ValueError(f"crop {self.crop} is larger than resize {self.resize}")
        if self.fit != "crop" and self.crop != self.resize:
            raise ValueError(
                f"fit {self.fit} cuts nothing off, and crop {self.crop} of resize {self.resize} "
                "would; expected equal numbers"
            )
        if not all(math.isfinite(s) and s > 0 for s in self.std):
            raise ValueError(f"std {self.std} must be finite and positive")

    @property
    def fill(self) -> tuple[int, int, int]:
        """The colour beside a letterboxed picture: the mean, which the graph makes about 0."""
        red, green, blue = (min(max(round(_WHITE * m), 0), _WHITE) for m in self.mean)
        return red, green, blue

    @property
    def words(self) -> str:
        """What is done to a picture, for people."""
        if self.fit == "letterbox":
            fill = "#{:02x}{:02x}{:02x}".format(*self.fill)
            done = f"whole picture, long side to {self.size}, the rest of the square {fill}"
        elif self.fit == "stretch":
            done = f"whole picture, stretched to {self.size}x{self.size}"
        else:
            done = f"short side to {self.resize}, centre {self.crop}"
        return f"{done}, {self.interpolation}"
