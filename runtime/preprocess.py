"""From anything a user calls an image to the network's uint8 input: decode, then one resize.

Training's evaluation, calibration, export and the classifier all call these functions, so that an
image means the same to each of them. The crop is the region of "resize the short side, cut the
centre", taken from the decoded image with `resize(box=...)`: one interpolation instead of two.
"""

import io
import math
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from runtime.card import InputSpec
from runtime.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
ImageSource = str | Path | bytes | Image.Image | NDArray[np.uint8]

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_RGB_CHANNELS = 3


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What is refused before it is decoded."""

    max_bytes: int = 32 << 20
    max_pixels: int = 64_000_000


def preprocess(
    source: ImageSource, spec: InputSpec, *, limits: Limits | None = None, name: str | None = None
) -> NDArray[np.uint8]:
    """Returns uint8 RGB (size, size, 3); raises ImageError naming the image when it cannot."""
    limits = limits or Limits()
    if isinstance(source, np.ndarray):
        return _fit(_image_from_array(source, name or "array"), spec)
    if isinstance(source, Image.Image):
        return _fit(_rgb(source), spec)
    if isinstance(source, bytes):
        return _fit(_decode(source, spec, limits, name or "image"), spec)
    path = Path(source)
    return _fit(_decode(_read(path, limits), spec, limits, name or str(path)), spec)


def _read(path: Path, limits: Limits) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(limits.max_bytes + 1)
    except OSError as error:
        raise ImageError(
            f"{path}: cannot be read ({error.strerror}); expected an image file"
        ) from error
    return content


def _decode(content: bytes, spec: InputSpec, limits: Limits, name: str) -> Image.Image:
    if len(content) > limits.max_bytes:
        raise ImageError(f"{name}: over {limits.max_bytes} bytes; send a smaller file")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_pixels(image, limits, name)
            # libjpeg decodes at 1/2, 1/4 or 1/8 for less; never below what the crop needs.
            edge = math.ceil(spec.size * spec.resize / spec.crop)
            image.draft(None, (edge, edge))
            return _rgb(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except Exception as error:  # a hostile file makes Pillow raise almost anything
        raise ImageError(
            f"{name}: not a readable image ({_reason(error)}); expected JPEG, PNG, WebP or BMP"
        ) from error


def _check_pixels(image: Image.Image, limits: Limits, name: str) -> None:
    if image.width * image.height > limits.max_pixels:
        raise ImageError(
            f"{name}: {image.width}x{image.height} pixels, the limit is {limits.max_pixels}"
        )


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "unknown format"
    return str(error) or type(error).__name__


def _rgb(image: Image.Image) -> Image.Image:
    """RGB from grey, palette, alpha (over white), CMYK and 16 bit."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint16) >> 8  # Pillow's own conversion clips at 255
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, coloured).convert("RGB")
    return image.convert("RGB")


def _image_from_array(array: NDArray[np.uint8], name: str) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != _RGB_CHANNELS or array.shape[2] != _RGB_CHANNELS:
        raise ImageError(
            f"{name}: received an array of {array.dtype} {array.shape}, "
            "expected uint8 (H, W, 3) in RGB order"
        )
    if 0 in array.shape:
        raise ImageError(
            f"{name}: received an empty array {array.shape}, expected at least one pixel"
        )
    return Image.fromarray(array)


def _fit(image: Image.Image, spec: InputSpec) -> NDArray[np.uint8]:
    width, height = image.size
    side = min(width, height) * spec.crop / spec.resize
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    if (width, height) == (spec.size, spec.size) and side == spec.size:
        return np.asarray(image)
    resized = image.resize((spec.size, spec.size), _RESAMPLING[spec.interpolation], box=box)
    return np.asarray(resized)
