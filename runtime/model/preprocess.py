"""Makes the network's uint8 input of whatever a user calls an image: decodes it, resizes it once.

Training's evaluation, calibration, export and the classifier all call these functions, so that they
all see the same pixels. `fit_image` alone decides what becomes of a picture that is no square.

The usual way to crop is to resize the short side and then to cut the centre. Here that region is
taken out of the decoded image with `resize(box=...)`, which interpolates once instead of twice.
"""

import io
import math
import stat
from pathlib import Path
from typing import TypeGuard

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime.base.errors import ImageError
from runtime.images.colours import rgb_of
from runtime.images.image_formats import SUFFIXES
from runtime.images.image_metadata import (
    UPRIGHT,
    Picture,
    Warn,
    orientation_in,
    orientation_of,
    orientation_of_opened,
    turned,
)
from runtime.images.jpeg_files import read_jpeg, start_of_jpeg
from runtime.images.other_files import read_other
from runtime.images.pixel_budget import SMALL, wait_for_room
from runtime.images.png_files import PNG_START, read_png
from runtime.images.reading_errors import reading_error
from runtime.model.card import InputSpec

__all__ = [
    "DEFAULT_LIMITS",
    "SUFFIXES",
    "ImageSource",
    "Limits",
    "decode_image",
    "fit_image",
    "is_prepared",
    "place_in_square",
    "preprocess",
]

ImageSource = str | Path | bytes | Image.Image | NDArray[np.uint8]

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_RGB_CHANNELS = 3


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
    warn: Warn | None = None,
) -> NDArray[np.uint8]:
    """Makes the network's input of an image.

    Args:
        source: a path, the bytes of a file, a PIL image, or uint8 RGB (H, W, 3).
        spec: the network's input.
        limits: larger images are refused.
        name: what to call the image in an error; default: its path, or what it is.
        warn: gets a sentence for what is perhaps not meant as it was read.

    Returns:
        uint8 RGB (size, size, 3). An array that is the network's input already is returned itself.

    Raises:
        ImageError: the image cannot be decoded, or is over a limit; the message names it.
    """
    if is_prepared(source, spec):
        return source
    return fit_image(decode_image(source, spec, limits=limits, name=name, warn=warn), spec)


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
    warn: Warn | None = None,
) -> Image.Image:
    """Decodes an image and turns it upright, as its EXIF data say.

    Args:
        source: a path, the bytes of a file, a PIL image, or uint8 RGB (H, W, 3).
        spec: the network's input. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that is
            enough for it.
        limits: larger images are refused.
        name: what to call the image in an error; default: its path, or what it is.
        warn: gets a sentence for what is perhaps not meant as it was read.

    Returns:
        An RGB image.

    Raises:
        ImageError: the image cannot be decoded, or is over a limit; the message names it.
    """
    if isinstance(source, np.ndarray):
        return _image_from_array(source, name or "array")
    if isinstance(source, (Image.Image, bytes)):
        return _decode(source, spec, limits, name or "image", warn or _ignore)
    if isinstance(source, (str, Path)):
        content = _read(Path(source), limits)
        return _decode(content, spec, limits, name or str(source), warn or _ignore)
    raise ImageError(
        f"{name or 'image'}: received {type(source).__name__}, expected a path, bytes, "
        "a PIL image or a uint8 array (H, W, 3)"
    )


def fit_image(image: Image.Image, spec: InputSpec) -> NDArray[np.uint8]:
    """Makes an RGB image the network's input, uint8 (size, size, 3), in the way of `spec.fit`."""
    if spec.fit != "crop":
        return _fit_whole(image, spec)
    width, height = image.size
    side = min(width, height) * spec.crop / spec.resize
    if (width, height) == (spec.size, spec.size) and side == spec.size:
        return np.asarray(image)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    resized = image.resize((spec.size, spec.size), _RESAMPLING[spec.interpolation], box=box)
    return np.asarray(resized)


def _fit_whole(image: Image.Image, spec: InputSpec) -> NDArray[np.uint8]:
    """The whole image, stretched to the square or in the middle of it."""
    left, top, right, bottom = place_in_square(image.size, spec)
    if (right - left, bottom - top) != image.size:
        image = image.resize((right - left, bottom - top), _RESAMPLING[spec.interpolation])
    if image.size == (spec.size, spec.size):
        return np.asarray(image)
    square = np.empty((spec.size, spec.size, _RGB_CHANNELS), np.uint8)
    square[:] = spec.fill
    square[top:bottom, left:right] = np.asarray(image)
    return square


def place_in_square(size: tuple[int, int], spec: InputSpec) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what a picture of that width and height fills of the input."""
    if spec.fit != "letterbox":
        return 0, 0, spec.size, spec.size
    longer = max(size)
    width, height = (max(1, round(side * spec.size / longer)) for side in size)
    left, top = (spec.size - width) // 2, (spec.size - height) // 2
    return left, top, left + width, top + height


def _size_needed(size: tuple[int, int], spec: InputSpec) -> tuple[int, int]:
    """The smallest width and height at which a picture of that size may be decoded."""
    if spec.fit == "letterbox":
        left, top, right, bottom = place_in_square(size, spec)
        return right - left, bottom - top
    edge = math.ceil(spec.size * spec.resize / spec.crop)
    return edge, edge


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


def _ignore(_: str) -> None:
    """The warning of a caller that does not want any."""


def _decode(
    source: bytes | Image.Image, spec: InputSpec, limits: Limits, name: str, warn: Warn
) -> Image.Image:
    try:
        if isinstance(source, Image.Image):
            _check_pixels(source, limits.max_pixels, name)
            source.load()
            return rgb_of(turned(source, orientation_of_opened(source)), warn)
        _check_bytes(len(source), limits, name)
        picture = _picture_in(source)
        with Image.open(io.BytesIO(picture.data), formats=[picture.kind]) as image:
            if picture.kind == "JPEG":  # all at once: Pillow would copy pieces of 64 KiB
                image.decodermaxblock = len(picture.data)
            return _decode_opened(image, picture, spec, limits, name, warn)
    except ImageError:
        raise
    except Exception as error:  # for a hostile file, Pillow raises errors of almost every class
        raise reading_error(error, source, limits.max_pixels, name) from error


def _picture_in(content: bytes) -> Picture:
    """The file as its own decoder gets it, by its first bytes."""
    if content.startswith(PNG_START):
        return read_png(content)
    start = start_of_jpeg(content)
    return read_other(content) if start < 0 else read_jpeg(content[start:])


def _decode_opened(
    image: Image.Image,
    picture: Picture,
    spec: InputSpec,
    limits: Limits,
    name: str,
    warn: Warn,
) -> Image.Image:
    _check_pixels(image, limits.max_pixels, name)
    if picture.most is not None:
        _check_pixels(
            image, picture.most, f"{name}: {picture.kind} of a kind that is decoded slowly"
        )
    decoded = image.size
    if picture.kind == "JPEG":
        # libjpeg decodes faster at 1/2, 1/4 or 1/8. `draft` keeps at least the size that we need.
        # HEIC's would give a thumbnail.
        image.draft(None, _size_needed(image.size, spec))
        if picture.load is None:  # of several scans, libjpeg keeps the whole picture
            decoded = image.size
    if (pixels := math.prod(decoded)) > SMALL:
        wait_for_room(pixels)
    if picture.load is not None:
        picture.load(image)
    image.load()
    orientation = UPRIGHT
    if picture.exif is None:
        orientation = orientation_in(image)
    elif picture.exif or picture.xmp:
        orientation = orientation_of(picture.exif, picture.xmp)
    if picture.rgb is not None:
        image = picture.rgb(image, warn)
    elif image.mode != "RGB" or "transparency" in image.info:
        image = rgb_of(image, warn)
    return image if orientation == UPRIGHT else turned(image, orientation)


def _check_pixels(image: Image.Image, most: int, name: str) -> None:
    if 0 in image.size:
        raise ImageError(f"{name}: {image.width}x{image.height} pixels, expected at least one")
    if image.width * image.height > most:
        raise ImageError(f"{name}: {image.width}x{image.height} pixels, the limit is {most}")


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
