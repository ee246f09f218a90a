"""Reads BMP, GIF, WebP, AVIF, TIFF and HEIC files: the first picture of each, in bounded time."""

import importlib
import struct
from collections.abc import Callable
from functools import cache, partial
from importlib import metadata

from PIL import Image, features

from runtime.images.colours import rgb_of
from runtime.images.image_formats import format_of
from runtime.images.image_metadata import (
    DamagedError,
    EndsEarlyError,
    Picture,
    UnreadableError,
    Warn,
)
from runtime.images.tiff_files import read_tiff

# Pillow decodes run lengths in Python, at 4 million pixels a second. A small file can state a large
# picture, because it may leave out all of its pixels.
_MAX_RUN_LENGTH_PIXELS = 4_000_000
# On one core, AVIF of noisy pictures is decoded at 10 million pixels a second and HEIC at 5. The
# largest pictures of phones have 50 million.
_MAX_CODED_PIXELS = 50_000_000
_MAX_BOXES, _BOX_HEADER = 1000, 8
_RUN_LENGTHS = (1, 2)  # the compressions of a BMP's header
# Before its first picture, a GIF may have any number of comments and of the parts of one.
_MAX_GIF_PARTS = 10_000
_GIF_GLOBAL, _GIF_COLOURS = 0x80, 0x07


def read_other(content: bytes) -> Picture:
    """The picture in a file that is neither JPEG nor PNG.

    Raises:
        UnreadableError: with the name of the format, if it is not decoded.
    """
    name = format_of(content)
    if name in _READERS:
        plugin, read = _READERS[name]
        picture = read(content)
        if plugin:
            # Importing a plugin registers it. Without these Pillow imports all forty.
            importlib.import_module(f"PIL.{plugin}ImagePlugin")
        return picture
    raise UnreadableError(name or "of no format that is known here")


def _read_bmp(content: bytes) -> Picture:
    runs = int.from_bytes(content[30:34], "little") in _RUN_LENGTHS
    return Picture(content, "BMP", most=_MAX_RUN_LENGTH_PIXELS if runs else None, rgb=_rgb_of_bmp)


def _read_webp(content: bytes) -> Picture:
    if len(content) < int.from_bytes(content[4:8], "little") + 8:
        raise EndsEarlyError
    return Picture(content, "WEBP", exif=None)


def _read_avif(content: bytes) -> Picture:
    _check_boxes(content)
    if not features.check("avif"):
        raise UnreadableError("AVIF, which this Pillow cannot read; install one that has AVIF")
    return Picture(content, "AVIF", exif=None, most=_MAX_CODED_PIXELS)


def _read_heic(content: bytes) -> Picture:
    _check_boxes(content)
    if not heic_is_read():
        raise UnreadableError("HEIC, which needs the extra heic: pip install 'skd-edge[heic]'")
    return Picture(content, "HEIF", most=_MAX_CODED_PIXELS)


def _check_boxes(content: bytes) -> None:
    """Checks that the boxes of an ISO base media file (ISO/IEC 14496-12) lie in it.

    Raises:
        UnreadableError: if one does not, or there are very many.
    """
    place = 0
    for _ in range(_MAX_BOXES):
        if place == len(content):
            return
        if place > len(content):
            raise EndsEarlyError
        size, kind = (
            int.from_bytes(content[place : place + 4], "big"),
            content[place + 4 : place + 8],
        )
        if not kind.isalnum():  # what another program put behind the last box
            return
        if size == 1:
            size = int.from_bytes(content[place + 8 : place + 16], "big")
        if size == 0:  # this box goes on to the end
            return
        place += max(size, _BOX_HEADER)
    raise DamagedError


@cache
def heic_is_read() -> bool:
    """Whether the extra that reads HEIC is installed. It is told to Pillow then."""
    try:
        heif = importlib.import_module("pillow_heif")
    except ImportError:
        return False
    heif.register_heif_opener(thumbnails=False)
    return True


def heic_version() -> str:
    """The version of what decodes HEIC; "" without it."""
    try:
        return metadata.version("pillow-heif")
    except metadata.PackageNotFoundError:
        return ""


def _rgb_of_bmp(image: Image.Image, warn: Warn) -> Image.Image:
    if image.mode == "RGBA" and not image.getchannel("A").getbbox():
        return image.convert("RGB")  # many programs leave the fourth byte zero
    return rgb_of(image, warn)


def _read_gif(content: bytes) -> Picture:
    """A GIF whose first picture follows its colours and what says which of them is transparent.

    Raises:
        UnreadableError: if it ends before that, or has too many parts there.
    """
    head = content[:13].ljust(13, b"\0")
    start = 13 + (6 << (head[10] & _GIF_COLOURS) if head[10] & _GIF_GLOBAL else 0)
    place, control, parts = start, b"", 0
    while (kind := content[place : place + 1]) == b"!":
        first, is_control = place, content[place + 1 : place + 2] == b"\xf9"
        place += 2
        while place < len(content) and content[place]:
            place += 1 + content[place]
            parts += 1
        place, parts = place + 1, parts + 1
        if parts > _MAX_GIF_PARTS:
            raise UnreadableError("a GIF file of too many comments; save it again")
        if is_control:
            control = content[first:place]
    if kind != b"," or place + 10 > len(content):
        raise EndsEarlyError if place + 10 > len(content) else DamagedError
    left, top, width, height = struct.unpack_from("<4H", content, place + 1)
    box = (left, top, left + width, top + height)
    data = content[:start] + control + content[place:]
    return Picture(data, "GIF", rgb=partial(_rgb_of_gif, box=box))


def _rgb_of_gif(image: Image.Image, warn: Warn, *, box: tuple[int, int, int, int]) -> Image.Image:
    """The first picture. Where it does not cover the whole, the whole is white."""
    if box == (0, 0, *image.size):
        return rgb_of(image, warn)
    whole = Image.new("RGB", image.size, "white")
    whole.paste(rgb_of(image.crop(box), warn), box[:2])
    return whole


# For each format: the plugin of Pillow's that is imported, and the reader.
_READERS: dict[str, tuple[str, Callable[[bytes], Picture]]] = {
    "BMP": ("Bmp", _read_bmp),
    "WebP": ("WebP", _read_webp),
    "GIF": ("Gif", _read_gif),
    "TIFF": ("Tiff", read_tiff),
    "AVIF": ("Avif", _read_avif),
    "HEIC": ("", _read_heic),
}
