"""Reads the first page of a TIFF file, without the tags that no pixel depends on.

The tags are those of TIFF 6.0 and its supplements. The directory of the first page is written anew,
at the end of the file, with the tags that tell how the pixels are stored. So nothing else of the
file is read, whatever state it is in.
"""

import contextlib
import ctypes
import struct
from collections.abc import Mapping
from functools import cache, partial

from PIL import Image, _imaging

from runtime.images.colours import rgb_of, rgb_of_16_bits, warn_of_few_bits
from runtime.images.image_metadata import EndsEarlyError, Picture, UnreadableError, Warn

_SUBFILE, _COMPRESSION, _ORIENTATION, _BITS_PER_SAMPLE = 254, 259, 274, 258
_PHOTOMETRIC = 262
_WHITE_IS_ZERO, _BLACK_IS_ZERO = 0, 1
_PLACES = ((273, 279), (324, 325))  # where strips and tiles begin, and how long they are
_RAW_VERSION = 50706  # DNGVersion
_KEPT = {
    *(
        256,
        257,
        _BITS_PER_SAMPLE,
        _COMPRESSION,
        _PHOTOMETRIC,
        266,
        273,
        277,
        278,
        279,
        284,
        292,
        293,
        317,
    ),
    *(320, 322, 323, 324, 325, 332, 338, 339, 347, 529, 530, 531, 532),
}
_READ = (_SUBFILE, _COMPRESSION, _ORIENTATION, _BITS_PER_SAMPLE, _PHOTOMETRIC)
# None, CCITT, LZW, JPEG, deflate, pack bits: what scanners and cameras write. Each is decoded in a
# time that the number of pixels bounds.
_COMPRESSIONS = (1, 2, 3, 4, 5, 7, 8, 32773, 32946)
_MAX_TAGS = 1000
# Pillow decodes uncompressed strips one by one in Python, 50,000 a second.
_MAX_PARTS = 40_000
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_FORMATS = {1: "B", 3: "H", 4: "I"}
_MAX_SHORT_BITS = 16
_SHORT_BITS = (12, _MAX_SHORT_BITS)
_INSIDE = 4  # bytes of a value that stands in the tag itself


def read_tiff(content: bytes) -> Picture:
    """The first page of a TIFF.

    Raises:
        UnreadableError: if its data end early, or if it is stored in a way that is not decoded.
    """
    _silence_libtiff()
    order = "<" if content.startswith(b"II") else ">"
    (start,) = struct.unpack_from(order + "I", content, 4)
    if start + 2 > len(content):
        raise EndsEarlyError
    (count,) = struct.unpack_from(order + "H", content, start)
    if start + 2 + 12 * count > len(content):
        raise EndsEarlyError
    if count > _MAX_TAGS:
        raise UnreadableError(f"a TIFF file of {count} tags")
    entries = {
        struct.unpack_from(order + "H", content, place)[0]: content[place : place + 12]
        for place in range(start + 2, start + 2 + 12 * count, 12)
    }
    numbers = {
        tag: _numbers(content, entry, order)
        for tag, entry in entries.items()
        if tag in (*_READ, *sum(_PLACES, ()))
    }
    if _RAW_VERSION in entries or numbers.get(_SUBFILE, (0,))[0] & 1:
        raise UnreadableError("the raw data of a camera; convert them to JPEG or PNG")
    compression = numbers.get(_COMPRESSION, (1,))[0]
    if compression not in _COMPRESSIONS:
        raise UnreadableError(f"a TIFF file of compression {compression}; save it again with LZW")
    bits, *of_others = numbers.get(_BITS_PER_SAMPLE, (1,))
    zero = numbers.get(_PHOTOMETRIC, (_BLACK_IS_ZERO,))[0]
    inverted = bits in _SHORT_BITS and not of_others and zero == _WHITE_IS_ZERO
    if inverted:  # Pillow inverts up to 8 bits only, and does not know some of the others
        entries[_PHOTOMETRIC] = struct.pack(order + "HHIHH", _PHOTOMETRIC, 3, 1, _BLACK_IS_ZERO, 0)
    kept = [entry for tag, entry in sorted(entries.items()) if tag in _KEPT]
    _check_places(content, kept, numbers, order)
    data = content + b"\0" * (len(content) % 2)
    directory = struct.pack(order + "H", len(kept)) + b"".join(kept) + b"\0\0\0\0"
    data = data[:4] + struct.pack(order + "I", len(data)) + data[8:] + directory
    exif = b""
    if _ORIENTATION in entries:
        exif = content[:4] + struct.pack(order + "IH", 8, 1) + entries[_ORIENTATION]
    return Picture(data, "TIFF", exif, rgb=partial(_rgb_of_tiff, bits=bits, inverted=inverted))


@cache
def _silence_libtiff() -> None:
    """Lets libtiff print nothing on stderr about damaged strips, since Pillow raises an error.

    Pillow turns off its warnings and not its errors. `TIFFSetErrorHandler` is libtiff's own way to
    do so (its manual, TIFFError); the function is found through Pillow's module, which is linked to
    it. Where the library is a part of that module, the function may be hidden, and it goes on.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def _numbers(content: bytes, entry: bytes, order: str) -> tuple[int, ...]:
    """The values of a tag of unsigned integers; zero if it has another type."""
    kind, count = struct.unpack_from(order + "HI", entry, 2)
    if kind not in _FORMATS or count == 0:
        return (0,)
    if count > _MAX_PARTS:
        raise UnreadableError(f"a TIFF file of {count} parts; save it again with larger strips")
    length = _SIZES[kind] * count
    place = 0
    if length > _INSIDE:
        (place,) = struct.unpack_from(order + "I", entry, 8)
        if place + length > len(content):
            raise EndsEarlyError
        return struct.unpack_from(f"{order}{count}{_FORMATS[kind]}", content, place)
    return struct.unpack_from(f"{order}{count}{_FORMATS[kind]}", entry, 8)


def _check_places(
    content: bytes, kept: list[bytes], numbers: Mapping[int, tuple[int, ...]], order: str
) -> None:
    """Checks that the values of all tags, and all strips and tiles, lie in the file.

    Raises:
        EndsEarlyError: if one does not.
    """
    for entry in kept:
        _, kind, count, place = struct.unpack(order + "HHII", entry)
        length = _SIZES.get(kind, 1) * count
        if length > _INSIDE and place + length > len(content):
            raise EndsEarlyError
    for starts, lengths in _PLACES:
        if starts in numbers and lengths in numbers:
            ends = map(sum, zip(numbers[starts], numbers[lengths], strict=False))
            if max(ends) > len(content):
                raise EndsEarlyError


def _rgb_of_tiff(image: Image.Image, warn: Warn, *, bits: int, inverted: bool) -> Image.Image:
    if image.mode.startswith("I;16"):
        return rgb_of_16_bits(image, warn, bits=min(bits, _MAX_SHORT_BITS), inverted=inverted)
    if bits == _MAX_SHORT_BITS and image.mode in ("RGB", "RGBA", "CMYK"):  # the upper bytes
        highest = max(int(most) for _, most in image.getextrema()[:3])  # type: ignore[misc]
        warn_of_few_bits(highest << 8 | bool(highest), warn)
    return rgb_of(image, warn)
