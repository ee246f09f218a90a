"""Makes RGB of every mode of a decoded image: transparency on white, 16 bits as 8."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime.images.image_metadata import UnreadableError, Warn

_NO_RANGE = ("I", "F")
_WHITE = 255
_BYTE, _FULL_BITS = 8, 16
# Values below a quarter of the range may be those of 14 bits or fewer.
_SUSPICIOUS_BITS = 14


def rgb_of(image: Image.Image, warn: Warn) -> Image.Image:
    """The image in RGB. Transparent images are put on white, 16-bit values become 8-bit ones.

    Args:
        image: in any mode.
        warn: gets a sentence if 16-bit values are perhaps those of fewer bits.

    Raises:
        UnreadableError: if the mode has no defined range of values.
    """
    if image.mode in _NO_RANGE or image.mode == "LAB":
        raise UnreadableError(
            f"mode {image.mode} has no defined range of values; convert it to 8 bit"
        )
    if image.mode.startswith("I;16"):
        return rgb_of_16_bits(image, warn, bits=_FULL_BITS)
    if image.has_transparency_data:
        # Colours that were multiplied with their alpha must be divided by it first.
        plain = image.convert("LA") if image.mode == "La" else image
        coloured = plain.convert("RGBA")
        background = Image.new("RGB", image.size, "white")
        background.paste(coloured, mask=coloured.getchannel("A"))
        return background
    return image if image.mode == "RGB" else image.convert("RGB")


def rgb_of_16_bits(
    image: Image.Image, warn: Warn, *, bits: int, inverted: bool = False
) -> Image.Image:
    """RGB of a grey image of mode I;16, whose values have so many bits. Inverted, zero is white."""
    values = np.asarray(image).astype(np.uint16)
    if bits == _FULL_BITS:
        warn_of_few_bits(int(values.max()), warn, looks="pale" if inverted else "dark")
    grey = eight_bits(values, bits)
    if inverted:
        grey = ~grey
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = _WHITE
    return Image.fromarray(grey).convert("RGB")


def eight_bits(values: NDArray[np.uint16], bits: int) -> NDArray[np.uint8]:
    """Values of so many bits as values of eight."""
    small: NDArray[np.uint16]
    if bits >= _BYTE:
        small = values >> np.uint16(bits - _BYTE)
    else:
        small = values * np.uint16(_WHITE) // np.uint16(2**bits - 1)
    return small.astype(np.uint8)


def warn_of_few_bits(largest: int, warn: Warn, *, looks: str = "dark") -> None:
    """Warns if the largest of an image's 16-bit values has so few bits that they may be all."""
    bits = max(_BYTE, largest.bit_length())
    if largest > 0 and bits <= _SUSPICIOUS_BITS:
        warn(
            f"the 16-bit values end below {2**bits}, as those of {bits} bits do, and give a "
            f"{looks} picture; if they are such, scale them to 16 bits"
        )
