"""Takes the metadata out of JPEG and PNG files, and reads only the orientation from it.

Pillow reads all metadata of a file, and refuses the file or warns if some of it is broken, or
large. No pixel depends on it, so it is left out before Pillow sees the file. The segments of a JPEG
are those of ITU-T T.81, annex B. What Pillow decoded becomes RGB here, too.
"""

import re
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from runtime.base.errors import ImageError

JPEG_START = b"\xff\xd8\xff"
PNG_START = b"\x89PNG\r\n\x1a\n"
UPRIGHT = 1
_UNDEFINED_RANGE = ("I", "F")

_FF, _FIRST_FRAME, _START_OF_SCAN, _APP1, _APP2 = 0xFF, 0xC0, 0xDA, 0xE1, 0xE2
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_MORE_PICTURES = b"MPF\0"

_KEPT_CHUNKS = (b"PLTE", b"IDAT", b"IEND", b"IHDR", b"tRNS")
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_MAX_TEXT = 1 << 20
_EXIF_TEXT, _XMP_TEXT = b"Raw profile type exif", b"XML:com.adobe.xmp"

_ORIENTATION_TAG = 0x0112
_INTEGERS = {1: 1, 3: 2, 4: 4}  # TIFF's types of unsigned integers: bytes of each
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


class Picture(NamedTuple):
    """A file without metadata, and the orientation that its metadata stated."""

    data: bytes
    orientation: int


def read_jpeg(content: bytes) -> Picture:
    """Leaves EXIF, XMP and the index of further pictures out of a JPEG's header.

    Colour profiles and what says how colours are stored stay. The data behind the header is not
    looked at.
    """
    kept, kept_from, position = [], 0, 2
    exif, xmp = b"", b""
    while position + 4 <= len(content) and content[position] == _FF:
        marker = content[position + 1]
        if marker == _FF:  # such bytes may fill the space before a marker
            position += 1
            continue
        end = position + 2 + int.from_bytes(content[position + 2 : position + 4], "big")
        if marker < _FIRST_FRAME or marker == _START_OF_SCAN or end > len(content):
            break
        segment = content[position + 4 : end] if marker in (_APP1, _APP2) else b""
        if segment.startswith((_EXIF, _XMP, _MORE_PICTURES)):
            kept.append(content[kept_from:position])
            kept_from = end
            if segment.startswith(_EXIF):
                exif += segment[len(_EXIF) :]
            elif segment.startswith(_XMP):
                xmp = segment
        position = end
    kept.append(content[kept_from:])
    data = b"".join(kept) if kept_from else content
    return Picture(data, orientation_of(exif, xmp))


def read_png(content: bytes) -> Picture:
    """Leaves out the chunks of a PNG that no pixel depends on, whatever state they are in."""
    kept, kept_from, position = [], 0, len(PNG_START)
    exif, text_exif, xmp = b"", b"", b""
    while position + 12 <= len(content):
        length = int.from_bytes(content[position : position + 4], "big")
        kind = content[position + 4 : position + 8]
        end = position + 12 + length
        if end > len(content):
            break
        if kind not in _KEPT_CHUNKS and kind.isalpha() and kind[0] & 32:
            kept.append(content[kept_from:position])
            kept_from = end
            if kind == b"eXIf":
                exif = content[position + 8 : end - 4]
            elif kind in _TEXT_CHUNKS and content.startswith(
                (_EXIF_TEXT, _XMP_TEXT), position + 8, end
            ):
                key, text = _text(kind, content[position + 8 : end - 4])
                if key == _EXIF_TEXT:
                    text_exif = _hexadecimal(text)
                else:
                    xmp = text
        position = end
        if kind == b"IEND":
            break
    kept.append(content[kept_from:])
    data = b"".join(kept) if kept_from else content
    return Picture(data, orientation_of(exif or text_exif, xmp))


def _text(kind: bytes, chunk: bytes) -> tuple[bytes, bytes]:
    """Key and text of a chunk, of a compressed one at most the first `_MAX_TEXT` bytes."""
    key, _, rest = chunk.partition(b"\0")
    compressed = kind == b"zTXt"
    if kind == b"iTXt":
        compressed = rest[:1] == b"\1"
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    elif compressed:
        rest = rest[1:]
    if not compressed:
        return key, rest[:_MAX_TEXT]
    try:
        return key, zlib.decompressobj().decompress(rest, _MAX_TEXT)
    except zlib.error:
        return key, b""


def _hexadecimal(text: bytes) -> bytes:
    """The EXIF data that ImageMagick writes as text: three lines of header, then hexadecimal."""
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""


def orientation_of(exif: bytes, xmp: bytes = b"") -> int:
    """The orientation, 1 to 8, that EXIF data or else XMP data state; 1 where none is readable."""
    if not exif and not xmp:
        return UPRIGHT
    exif = exif.removeprefix(_EXIF)
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
