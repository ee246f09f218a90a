"""Reads JPEG files: without metadata, to the end of the picture, and only if its data are whole.

The segments are those of ITU-T T.81, annex B. libjpeg fills up with grey what is missing before a
marker, and says so to nobody. Therefore it does not get the marker that ends the picture's data. It
gets bits that cost it more than all others, and just so many that whole data can be finished.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin

from runtime.images.image_formats import format_of
from runtime.images.image_metadata import (
    EXIF,
    DamagedError,
    EndsEarlyError,
    Picture,
    UnreadableError,
)

JPEG_START = b"\xff\xd8\xff"
# A plain JPEG has one scan, a progressive one about ten. Each scan is decoded over the whole
# picture, even an empty one. A small file can hold some hundred thousand of them: that takes hours.
MAX_SCANS = 200
# Bytes that some programs put before a JPEG, such as a line end.
_MAX_JUNK = 64
_TOO_MANY = f"a JPEG of over {MAX_SCANS} scans; save it again as plain JPEG"
_FF, _APP0, _APP14, _APP15, _COMMENT = 0xFF, 0xE0, 0xEE, 0xEF, 0xFE
# JFIF and Adobe say how colours are stored. Shorter segments than these say nothing: libjpeg reads
# the first 14 and 12 bytes.
_COLOUR_SEGMENTS = {_APP0: 18, _APP14: 16}
_SOF0, _SOF2, _DHT, _RST0, _SOI, _EOI, _SOS = 0xC0, 0xC2, 0xC4, 0xD0, 0xD8, 0xD9, 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {_DHT, 0xC8, 0xCC}
_HUFFMAN = (_SOF0, 0xC1, _SOF2)
_TABLES = {_DHT, 0xDB, 0xDD}
# Whether a byte behind FF ends the data of a scan: FF 00 is a byte of data, FF FF fills space, and
# D0 to D7 restart the decoder.
_ENDS_A_SCAN = np.array([n not in (0, _FF, *range(_RST0, _RST0 + 8)) for n in range(256)])
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_BITS = 8
_JPEG_LS = 0xF7
_BLOCK = 1 << 16
_COEFFICIENTS, _LOWEST_BITS = 64, 15

# A byte of ones. No code may consist of ones alone (T.81, annex C), so that each code that is
# missing costs 17 of these bits. libjpeg (jdhuff.c) decodes when it has 57 bits or a marker: at
# most seven bytes are needed behind whole data. They hide that three codes of the last blocks are
# missing, and no more.
_ONES = b"\xff\0"
_FILLERS = 7


def start_of_jpeg(content: bytes) -> int:
    """Where a JPEG starts, perhaps behind some bytes of another program; -1: the file is none."""
    if content.startswith(JPEG_START):
        return 0
    # The first bytes of another format's pixels may be those of a JPEG.
    is_other = format_of(content) not in ("", "JPEG")
    return -1 if is_other else content.find(JPEG_START, 0, _MAX_JUNK)


def read_jpeg(content: bytes) -> Picture:
    """Leaves metadata, and what follows the picture, out of a JPEG.

    Only what says how colours are stored stays.

    Raises:
        UnreadableError: if the picture's data end early or are damaged, or if it has so many scans
            that decoding takes minutes.
    """
    kept: list[bytes] = []
    kept_from, position, size = 0, 2, len(content)
    metadata = {EXIF: b"", _XMP: b""}
    frame, components = 0, b""
    while position + 4 <= size:
        marker = content[position + 1]
        if content[position] != _FF or marker == _FF:  # such bytes may fill the space between
            position += 1
            continue
        end = position + 2 + (content[position + 2] << 8 | content[position + 3])
        if end > size:
            raise EndsEarlyError
        if _APP0 <= marker <= _APP15 or marker == _COMMENT:
            if end - position < _COLOUR_SEGMENTS.get(marker, end):
                kept.append(content[kept_from:position])
                kept_from = end
                for start in metadata:
                    if content.startswith(start, position + 4, end):
                        metadata[start] += content[position + 4 + len(start) : end]
        elif marker == _SOS:
            header = b"".join([*kept, content[kept_from:end]]) if kept else content[:end]
            scan = content[position + 4 : end]
            data, load = _data(header, memoryview(content)[end:], frame, components, scan)
            return Picture(data, "JPEG", metadata[EXIF], metadata[_XMP], None, load)
        elif marker not in _TABLES:
            frame, components = _frame(content[position:end])
        position = end
    raise EndsEarlyError


def _frame(segment: bytes) -> tuple[int, bytes]:
    """The marker of a frame's header, and the numbers of its components.

    Raises:
        UnreadableError: if it is no frame's, or one of colours that are not decoded.
    """
    marker = segment[1]
    if marker not in _FRAMES:
        raise UnreadableError("JPEG-LS") if marker == _JPEG_LS else DamagedError
    if segment[4] != _BITS:
        raise UnreadableError(f"a JPEG of {segment[4]} bits a colour, which is not decoded")
    return marker, segment[10::3]


def _data(
    header: bytes, rest: memoryview, frame: int, components: bytes, scan: bytes
) -> tuple[bytes, Callable[[Image.Image], None] | None]:
    """The data of the picture, and what loads them; None: Pillow's own way.

    The header ends with that of its first scan, and is followed by `rest`.
    """
    if frame not in _HUFFMAN:  # libjpeg cannot wait for more data where they are arithmetic codes
        if bytes(rest).count(b"\xff\xda") >= MAX_SCANS:
            raise UnreadableError(_TOO_MANY)
        return header + rest, _load_whole
    if frame != _SOF2 and scan[0] == len(components):
        return b"".join((header, rest[: next_marker(rest, 0)], _ONES * _FILLERS)), None
    scans = [*islice(_scans(rest, scan), MAX_SCANS + 1)]
    if len(scans) > MAX_SCANS:
        raise UnreadableError(_TOO_MANY)
    if not _are_all([scan for scan, _ in scans], components):
        raise EndsEarlyError
    data = header + rest[: scans[-1][1]]
    return data, lambda image: _load_scans(image, data)


def _scans(content: memoryview, scan: bytes) -> Iterator[tuple[bytes, int]]:
    """The header of each scan, and where its data end. Those of the first one begin at once.

    Raises:
        EndsEarlyError: if what stands between scans is cut.
    """
    place = next_marker(content, 0)
    yield scan, place
    while place + 2 <= len(content) and content[place + 1] not in (_EOI, _SOI):
        marker = content[place + 1]
        start, end = place + 4, place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        if end > len(content):
            raise EndsEarlyError
        place = next_marker(content, end)
        if marker == _SOS:
            yield bytes(content[start:end]), place


def _are_all(scans: list[bytes], components: bytes) -> bool:
    """Whether the scans hold every coefficient of every component, to its last bit."""
    missing = dict.fromkeys(components, (1 << _COEFFICIENTS) - 1)  # a bit for each coefficient
    for scan in scans:
        last = 1 + 2 * scan[0]  # of the bytes that name components
        first, end, bits = scan[last : last + 3]
        if bits & _LOWEST_BITS == 0:
            for component in scan[1:last:2]:
                missing[component] = missing.get(component, 0) & ~((2 << end) - (1 << first))
    return not any(missing.values())


def next_marker(content: bytes | memoryview, start: int) -> int:
    """The place of the first marker from `start` on that ends a scan's data; else the length."""
    while start < len(content) - 1:
        block = np.frombuffer(content, np.uint8, min(_BLOCK, len(content) - start), start)
        # Nearly all bytes FF are data, and have a zero behind them: so few places are left.
        places = ((block[:-1] == _FF) & (block[1:] != 0)).nonzero()[0]
        ends = _ENDS_A_SCAN[block[1:][places]].nonzero()[0]
        if ends.size:
            return start + int(places[ends[0]])
        start += len(block) - 1
    return len(content)


def _load_whole(image: Image.Image) -> None:
    """Decodes a JPEG of arithmetic codes, which may have several scans, in Pillow's own way."""
    image.load()


def _load_scans(image: Image.Image, data: bytes) -> None:
    """Decodes a JPEG of several scans, whose decoder collects them all before it gives pixels.

    After the last scan's data, the decoder gets ones, byte by byte. What it does not take yet
    belongs to a block that is not complete. If the data are whole, that is so once at most.

    Raises:
        EndsEarlyError: if the last scan is not complete.
    """
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    codec, extents, _, arguments = image.tile[0]
    image.load_prepare()
    decoder = Image._getdecoder(image.mode, codec, arguments, image.decoderconfig)
    try:
        decoder.setimage(image.im, extents)
        left, dropped = _fed(decoder, data), False
        for _ in range(3 * _FILLERS):
            before, left = len(left) + len(_ONES), _fed(decoder, left + _ONES)
            if left and (dropped or len(left) < before):
                raise EndsEarlyError
            dropped = not left
        if not dropped:
            raise EndsEarlyError
        _fed(decoder, b"\xff\xd9")
    finally:
        decoder.cleanup()
    image.tile = []


def _fed(decoder: Any, data: bytes) -> bytes:
    """What the decoder leaves of `data` until it gets more."""
    taken, error = decoder.decode(data)
    if error < 0:
        raise DamagedError
    return data[taken:] if taken >= 0 else b""
