"""Of a picture's metadata only the orientation is read. What is broken there is ignored.

Pillow reads all metadata of a file, and refuses the file or warns if some of it is broken, or
large. No pixel depends on it, so the readers of each format leave it out before Pillow sees the
file.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from PIL import ExifTags, Image

UPRIGHT = 1
EXIF = b"Exif\0\0"

_ORIENTATION_TAG = 0x0112
_INTEGERS = {1: 1, 3: 2, 4: 4}  # TIFF's types of unsigned integers: bytes of each
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Warn = Callable[[str], None]


class UnreadableError(Exception):
    """Why a picture is not decoded, in words that its owner understands."""


class EndsEarlyError(UnreadableError):
    """The data of the picture are not complete."""


class DamagedError(UnreadableError):
    """The data of the picture are no valid ones of their format."""


class Picture(NamedTuple):
    """A file without metadata, and how it is decoded.

    Attributes:
        data: what the decoder gets.
        kind: the only one of Pillow's formats that is tried.
        exif: EXIF data. None: those that the decoder finds are used.
        xmp: XMP data.
        most: the largest number of pixels that is decoded in bounded time; None: of any format.
        load: decodes the opened image; None: Pillow's own way, of a JPEG in a single scan.
        rgb: makes an RGB image of the decoded one, and warns; None: the way of all formats.
    """

    data: bytes
    kind: str
    exif: bytes | None = b""
    xmp: bytes = b""
    most: int | None = None
    load: Callable[[Image.Image], None] | None = None
    rgb: Callable[[Image.Image, Warn], Image.Image] | None = None


def orientation_of(exif: bytes, xmp: bytes = b"") -> int:
    """The orientation, 1 to 8, that EXIF data or else XMP data state; 1 where none is readable."""
    if not exif and not xmp:
        return UPRIGHT
    exif = exif.removeprefix(EXIF)
    order = {b"II": "little", b"MM": "big"}.get(exif[:2])
    if order is not None:
        start = int.from_bytes(exif[4:8], order)  # type: ignore[arg-type]
        count = int.from_bytes(exif[start : start + 2], order)  # type: ignore[arg-type]
        for place in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
            tag, kind = (
                int.from_bytes(exif[place + at : place + at + 2], order)  # type: ignore[arg-type]
                for at in (0, 2)
            )
            if tag == _ORIENTATION_TAG and kind in _INTEGERS:
                value = exif[place + 8 : place + 8 + _INTEGERS[kind]]
                number = int.from_bytes(value, order)  # type: ignore[arg-type]
                return number if number in range(1, 9) else UPRIGHT
    found = _XMP_ORIENTATION.search(xmp)
    return int(found[1]) if found else UPRIGHT


def orientation_in(image: Image.Image) -> int:
    """The orientation that an opened image states in what its decoder kept of the metadata."""
    exif, xmp = (
        data if isinstance(data, bytes) else b""
        for data in (image.info.get("exif"), image.info.get("xmp"))
    )
    return orientation_of(exif, xmp)


def orientation_of_opened(image: Image.Image) -> int:
    """The orientation of an image that somebody else opened."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, UPRIGHT))
    except Exception:  # Pillow raises errors of almost every class for broken EXIF data
        return UPRIGHT


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The image upright."""
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)
