"""Makes an RGB image of whatever mode Pillow decoded: transparent pixels become white."""

import numpy as np
from PIL import Image

from runtime.base.errors import ImageError

_UNDEFINED_RANGE = ("I", "F")


def rgb_of(image: Image.Image, name: str) -> Image.Image:
    """The image in RGB. Transparent images are put on white, 16-bit values become 8-bit ones.

    Raises:
        ImageError: if the mode has no defined range of values; the message names the image.
    """
    if image.mode in _UNDEFINED_RANGE:
        raise ImageError(
            f"{name}: mode {image.mode} has no defined range of values; convert it to 8 bit"
        )
    if image.mode.startswith("I;16"):
        return _rgb_of_16_bits(image)
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        background = Image.new("RGB", image.size, "white")
        background.paste(coloured, mask=coloured.getchannel("A"))
        return background
    return image if image.mode == "RGB" else image.convert("RGB")


def _rgb_of_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.uint16)
    grey = (values >> 8).astype(np.uint8)  # Pillow limits each to 255
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")
