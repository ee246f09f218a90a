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
    ExifTags,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from runtime.base.errors import ImageError
from runtime.images.image_formats import READABLE, format_of
from runtime.images.image_metadata import (
    JPEG_START,
    PNG_START,
    UPRIGHT,
    orientation_of,
    read_jpeg,
    read_png,
    rgb_of,
)
from runtime.model.card import InputSpec

_PLUGINS = (JpegImagePlugin, PngImagePlugin, WebPImagePlugin, BmpImagePlugin)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
ImageSource = str | Path | bytes | Image.Image | NDArray[np.uint8]

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_RGB_CHANNELS = 3
# A plain JPEG has one scan, a progressive one about ten. Each scan is decoded over the whole
# picture, even an empty one. A small file can hold some hundred thousand of them: that takes hours.
_MAX_SCANS = 200
# Bytes that some programs put before a JPEG, such as a line end.
_MAX_JUNK = 64
_OTHER_STARTS = (PNG_START, b"RIFF", b"BM")  # PNG, WebP, BMP
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG_DEPTH = 24  # the place of the byte that tells the bits of a channel
_SIXTEEN_BITS = b"\x10"
_START_OF_SCAN = 0xDAFF  # FF DA, read as a little-endian number
# Pillow decodes run lengths in Python, at 4 million pixels a second. A small file can state a large
# picture, because it may leave out all of its pixels.
_MAX_RUN_LENGTH_PIXELS = 4_000_000
_RUN_LENGTHS = "bmp_rle"


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
            source.load()
            return rgb_of(_turned(source, _orientation(source)), name)
        return _decode_bytes(source, spec, limits, name)
    except ImageError:
        raise
    except Exception as error:  # for a hostile file, Pillow raises errors of almost every class
        reason = _reason(error, source)
        raise ImageError(f"{name}: not a readable image ({reason}); expected {READABLE}") from error


def _decode_bytes(content: bytes, spec: InputSpec, limits: Limits, name: str) -> Image.Image:
    if not content:
        raise ImageError(f"{name}: is empty; expected {READABLE}")
    _check_bytes(len(content), limits, name)
    content, orientation = _without_junk(content), None
    is_jpeg, sixteen_bits = content.startswith(JPEG_START), False
    if is_jpeg:
        content, orientation = read_jpeg(content)
    elif content.startswith(PNG_START):
        content, orientation = read_png(content)
        sixteen_bits = content[_PNG_DEPTH : _PNG_DEPTH + 1] == _SIXTEEN_BITS
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        _check_pixels(image, limits.max_pixels, name)
        if is_jpeg and _count_scans(content) > _MAX_SCANS:
            raise ImageError(f"{name}: has over {_MAX_SCANS} scans; save it again as plain JPEG")
        if any(tile.codec_name == _RUN_LENGTHS for tile in image.tile):
            _check_pixels(image, _MAX_RUN_LENGTH_PIXELS, f"{name}: a BMP of run lengths")
        # libjpeg decodes faster at 1/2, 1/4 or 1/8. `draft` keeps at least the size that we need.
        edge = math.ceil(spec.size * spec.resize / spec.crop)
        image.draft(None, (edge, edge))
        image.load()
        if orientation is None:
            orientation = orientation_of(image.info.get("exif") or b"", _xmp(image))
        transparent = image.info.get("transparency")
        if sixteen_bits and image.mode == "RGB" and isinstance(transparent, tuple):
            # Pillow has made 8-bit pixels, and leaves the transparent colour in 16 bits.
            image.info["transparency"] = tuple(value >> 8 for value in transparent)
        if image.format == "BMP" and image.mode == "RGBA" and not image.getchannel("A").getbbox():
            return image.convert("RGB")  # many programs leave the fourth byte zero
        return rgb_of(_turned(image, orientation), name)


def _without_junk(content: bytes) -> bytes:
    """The file from the start of its JPEG on, if that is among the first bytes."""
    if content.startswith(_OTHER_STARTS):
        return content  # its pixels may have the same bytes
    start = content.find(JPEG_START, 0, _MAX_JUNK)
    return content[start:] if start > 0 else content


def _xmp(image: Image.Image) -> bytes:
    xmp = image.info.get("xmp")
    return xmp if isinstance(xmp, bytes) else b""


def _orientation(image: Image.Image) -> int:
    """The orientation of an image that somebody else opened. What is broken is ignored."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, UPRIGHT))
    except Exception:  # Pillow raises errors of almost every class for broken EXIF data
        return UPRIGHT


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


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


def _reason(error: Exception, source: bytes | Image.Image) -> str:
    if isinstance(error, UnidentifiedImageError):
        return format_of(source) if isinstance(source, bytes) else "of no known format"
    return str(error) or type(error).__name__


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
