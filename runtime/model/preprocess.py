"""Makes the network's uint8 input of whatever a user calls an image: decodes it, resizes it once.

Training's evaluation, calibration, export and the classifier all call these functions, so that they
all see the same pixels. The usual way is to resize the short side and then to cut the centre. Here
that region is taken out of the decoded image with `resize(box=...)`, which interpolates once
instead of twice.
"""

import io
import math
import stat
from pathlib import Path
from typing import TypeGuard

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import (  # importing a plugin registers it; without these Pillow imports all forty
    BmpImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from runtime.base.errors import ImageError
from runtime.model.card import InputSpec

_PLUGINS = (JpegImagePlugin, PngImagePlugin, WebPImagePlugin, BmpImagePlugin)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
ImageSource = str | Path | bytes | Image.Image | NDArray[np.uint8]

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_RGB_CHANNELS = 3
# A plain JPEG has one scan, a progressive one about ten. Each scan is decoded over the whole
# picture, even an empty one. A small file can hold some hundred thousand of them: that takes hours.
_MAX_SCANS = 200
_JPEG = b"\xff\xd8"
_START_OF_SCAN = 0xDAFF  # FF DA, read as a little-endian number
# Pillow decodes run lengths in Python, at 4 million pixels a second. A small file can state a large
# picture, because it may leave out all of its pixels.
_MAX_RUN_LENGTH_PIXELS = 4_000_000
_RUN_LENGTHS = "bmp_rle"
_UNDEFINED_RANGE = ("I", "F")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The largest images that are decoded; larger ones are refused."""

    max_bytes: int = 32 << 20  # of the encoded file
    max_pixels: int = 64_000_000  # width times height


DEFAULT_LIMITS = Limits()


def preprocess(
    source: ImageSource,
    spec: InputSpec,
    *,
    limits: Limits = DEFAULT_LIMITS,
    name: str | None = None,
) -> NDArray[np.uint8]:
    """Makes the network's input of an image.

    Args:
        source: a path, the bytes of a file, a PIL image, or uint8 RGB (H, W, 3).
        spec: the network's input.
        limits: larger images are refused.
        name: what to call the image in an error; default: its path, or what it is.

    Returns:
        uint8 RGB (size, size, 3). An array that is the network's input already is returned itself.

    Raises:
        ImageError: the image cannot be decoded, or is over a limit; the message names it.
    """
    if is_prepared(source, spec):
        return source
    return fit_image(decode_image(source, spec, limits=limits, name=name), spec)


def is_prepared(source: ImageSource, spec: InputSpec) -> TypeGuard[NDArray[np.uint8]]:
    """Whether `source` is an array that is the network's input already, with nothing to cut off."""
    return (
        isinstance(source, np.ndarray)
        and source.dtype == np.uint8
        and source.shape == (spec.size, spec.size, _RGB_CHANNELS)
        and spec.resize == spec.crop
    )


def decode_image(
    source: ImageSource,
    spec: InputSpec,
    *,
    limits: Limits = DEFAULT_LIMITS,
    name: str | None = None,
) -> Image.Image:
    """Decodes an image and turns it upright, as its EXIF data say.

    Args:
        source: a path, the bytes of a file, a PIL image, or uint8 RGB (H, W, 3).
        spec: the network's input. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that is
            enough for it.
        limits: larger images are refused.
        name: what to call the image in an error; default: its path, or what it is.

    Returns:
        An RGB image.

    Raises:
        ImageError: the image cannot be decoded, or is over a limit; the message names it.
    """
    if isinstance(source, np.ndarray):
        return _image_from_array(source, name or "array")
    if isinstance(source, Image.Image):
        return _decode(source, spec, limits, name or "image")
    if isinstance(source, bytes):
        return _decode(source, spec, limits, name or "image")
    if isinstance(source, (str, Path)):
        return _decode(_read(Path(source), limits), spec, limits, name or str(source))
    raise ImageError(
        f"{name or 'image'}: received {type(source).__name__}, expected a path, bytes, "
        "a PIL image or a uint8 array (H, W, 3)"
    )


def fit_image(image: Image.Image, spec: InputSpec) -> NDArray[np.uint8]:
    """Cuts and resizes an RGB image to the network's input: uint8 (size, size, 3)."""
    width, height = image.size
    side = min(width, height) * spec.crop / spec.resize
    if (width, height) == (spec.size, spec.size) and side == spec.size:
        return np.asarray(image)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    resized = image.resize((spec.size, spec.size), _RESAMPLING[spec.interpolation], box=box)
    return np.asarray(resized)


def _read(path: Path, limits: Limits) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe could block, a device never ends
            raise ImageError(f"{path}: is not a regular file; expected an image file")
        _check_bytes(status.st_size, limits, str(path))
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        if isinstance(error, ImageError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise ImageError(f"{path}: cannot be read ({reason}); expected an image file") from error


def _check_bytes(size: int, limits: Limits, name: str) -> None:
    if size > limits.max_bytes:
        raise ImageError(f"{name}: {size} bytes, the limit is {limits.max_bytes}")


def _decode(source: bytes | Image.Image, spec: InputSpec, limits: Limits, name: str) -> Image.Image:
    try:
        if isinstance(source, Image.Image):
            _check_pixels(source, limits.max_pixels, name)
            return _rgb(ImageOps.exif_transpose(source), name)
        return _decode_bytes(source, spec, limits, name)
    except ImageError:
        raise
    except Exception as error:  # for a hostile file, Pillow raises errors of almost every class
        raise ImageError(
            f"{name}: not a readable image ({_reason(error)}); expected JPEG, PNG, WebP or BMP"
        ) from error


def _decode_bytes(content: bytes, spec: InputSpec, limits: Limits, name: str) -> Image.Image:
    if not content:
        raise ImageError(f"{name}: is empty; expected JPEG, PNG, WebP or BMP")
    _check_bytes(len(content), limits, name)
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        _check_pixels(image, limits.max_pixels, name)
        if content.startswith(_JPEG) and _count_scans(content) > _MAX_SCANS:
            raise ImageError(f"{name}: has over {_MAX_SCANS} scans; save it again as plain JPEG")
        if any(tile.codec_name == _RUN_LENGTHS for tile in image.tile):
            _check_pixels(image, _MAX_RUN_LENGTH_PIXELS, f"{name}: a BMP of run lengths")
        # libjpeg decodes faster at 1/2, 1/4 or 1/8. `draft` keeps at least the size that we need.
        edge = math.ceil(spec.size * spec.resize / spec.crop)
        image.draft(None, (edge, edge))
        ImageOps.exif_transpose(image, in_place=True)  # loads the pixels
        return _rgb(image, name)


def _count_scans(content: bytes) -> int:
    """The number of markers that start a scan, at even and at odd places of the file.

    `bytes.count` gives the same and takes seven times as long: 5 ms for a photograph of 5 MB.
    """
    pairs = (np.frombuffer(content, "<u2", (len(content) - first) // 2, first) for first in (0, 1))
    return sum(int(np.count_nonzero(pair == _START_OF_SCAN)) for pair in pairs)


def _check_pixels(image: Image.Image, most: int, name: str) -> None:
    if 0 in image.size:
        raise ImageError(f"{name}: {image.width}x{image.height} pixels, expected at least one")
    if image.width * image.height > most:
        raise ImageError(f"{name}: {image.width}x{image.height} pixels, the limit is {most}")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "unknown format"
    return str(error) or type(error).__name__


def _rgb(image: Image.Image, name: str) -> Image.Image:
    """The image in RGB. Transparent images are put on white, 16-bit values become 8-bit ones."""
    if image.mode == "RGB":
        return image
    if image.mode in _UNDEFINED_RANGE:
        raise ImageError(
            f"{name}: mode {image.mode} has no defined range of values; convert it to 8 bit"
        )
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint16) >> 8  # Pillow limits each to 255
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        background = Image.new("RGB", image.size, "white")
        background.paste(coloured, mask=coloured.getchannel("A"))
        return background
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
