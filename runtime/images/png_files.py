"""Reads PNG files: without the chunks that no pixel depends on, and 16 bits as what they mean.

The chunks are those of the PNG specification (W3C, third edition).
"""

import io
import struct
import zlib
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime.images.colours import eight_bits, rgb_of, warn_of_few_bits
from runtime.images.image_metadata import Picture, Warn

PNG_START = b"\x89PNG\r\n\x1a\n"
_KEPT_CHUNKS = (b"PLTE", b"IDAT", b"IEND", b"IHDR", b"tRNS")
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_MAX_TEXT = 1 << 20
_EXIF_TEXT, _XMP_TEXT = b"Raw profile type exif", b"XML:com.adobe.xmp"
_DEPTH, _HEADER_END = 24, 33  # where the bits of a channel stand, and where the first chunk ends
_SIXTEEN = 16
_COLOUR, _GREY_ALPHA = 25, 4  # where the kind of colours stands
_CHANNELS = {0: 1, 2: 3, _GREY_ALPHA: 2, 6: 4}


def read_png(content: bytes) -> Picture:
    """Leaves out the chunks of a PNG that no pixel depends on, whatever state they are in."""
    kept, kept_from, position = [], 0, len(PNG_START)
    exif, text_exif, xmp, significant = b"", b"", b"", b""
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
            elif kind == b"sBIT":
                significant = content[position + 8 : end - 4]
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
    picture = Picture(data, "PNG", exif or text_exif, xmp)
    if content[_DEPTH : _DEPTH + 1] != bytes([_SIXTEEN]):
        return picture
    return picture._replace(rgb=partial(_rgb_of_16_bits, data=data, significant=significant))


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


def _rgb_of_16_bits(
    image: Image.Image, warn: Warn, *, data: bytes, significant: bytes
) -> Image.Image:
    """RGB of a PNG of 16 bits a channel, of which those that sBIT states are significant.

    By the specification, values of fewer bits are scaled to 16. Some programs write them as they
    are, with sBIT beside them, or without it. With it, both ways can be told apart.
    """
    bits = [*significant]
    if bits and min(bits) in range(1, _SIXTEEN) and len(bits) == _CHANNELS.get(data[_COLOUR]):
        values = _values(image, data)
        if not _are_scaled(values, bits):
            return rgb_of(_scaled(image, values, bits), warn)
    elif image.mode != "I;16":
        highest = max(int(most) for _, most in image.getextrema()[:3])  # type: ignore[misc]
        colours = 1 if data[_COLOUR] == _GREY_ALPHA else 3
        largest = highest << 8 if highest else int(_values(image, data)[..., :colours].max())
        warn_of_few_bits(largest, warn)
    transparent = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(transparent, tuple):
        # Pillow has made 8-bit pixels, and leaves the transparent colour in 16 bits.
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    return rgb_of(image, warn)


def _values(image: Image.Image, data: bytes) -> NDArray[np.uint16]:
    """The values of a PNG of 16 bits: uint16 (H, W, channels). Pillow keeps them only of grey."""
    if image.mode == "I;16":
        return np.asarray(image).astype(np.uint16)[..., None]
    if data[_COLOUR] == _GREY_ALPHA:
        # Two channels of 16 bits lie in the file as four of 8 bits do.
        header = data[12:_DEPTH] + bytes([8, 6]) + data[_COLOUR + 1 : 29]
        changed = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[_HEADER_END:]
        with Image.open(io.BytesIO(changed), formats=["PNG"]) as both:
            grey: NDArray[np.uint16] = np.asarray(both).view(">u2").astype(np.uint16)
        return grey
    high: NDArray[np.uint16] = np.asarray(image).astype(np.uint16)
    with Image.open(io.BytesIO(data), formats=["PNG"]) as low:
        # Read as if its bytes were in the other order, it gives the lower ones.
        low.tile = [tile._replace(args=f"{image.mode};16L") for tile in low.tile]
        lower: NDArray[np.uint16] = np.asarray(low).astype(np.uint16)
    both_bytes: NDArray[np.uint16] = high << np.uint16(8) | lower
    return both_bytes


def _are_scaled(values: NDArray[np.uint16], bits: list[int]) -> bool:
    """Whether values of fewer bits fill the range of 16, as they should."""
    for channel, count in enumerate(bits):
        plane = values[..., channel]
        if plane.max() >= 1 << count:
            return True
    rests = [(values[..., n] % (1 << (_SIXTEEN - count))).any() for n, count in enumerate(bits)]
    return not any(rests)


def _scaled(image: Image.Image, values: NDArray[np.uint16], bits: list[int]) -> Image.Image:
    """The image of 8 bits a channel; a transparent colour has become an alpha channel."""
    planes = [eight_bits(values[..., n], count) for n, count in enumerate(bits)]
    transparent = image.info.get("transparency")
    if transparent is not None and len(bits) in (1, 3):
        planes.append(np.where((values == transparent).all(axis=2), 0, 255).astype(np.uint8))
    return Image.merge(
        {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[len(planes)],
        [Image.fromarray(plane) for plane in planes],
    )
