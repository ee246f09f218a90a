"""Metadata never makes a picture unreadable; transparency is white; refused formats are named."""

import io
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from runtime import ImageError
from runtime.images.image_metadata import orientation_of
from runtime.model.card import InputSpec
from runtime.model.preprocess import preprocess

UNIT = (1.0, 1.0, 1.0)
SPEC = InputSpec(size=32, resize=36, crop=32, mean=UNIT, std=UNIT)
LARGE = InputSpec(size=224, resize=256, crop=224, mean=UNIT, std=UNIT)


def photograph(width: int = 240, height: int = 160) -> Image.Image:
    rng = np.random.default_rng(width)
    coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height))).astype(int)
    noisy = smooth + rng.integers(-9, 9, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(content: bytes) -> NDArray[np.uint8]:
    return preprocess(content, SPEC)


def exif_of(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF data of one directory: tag, type, count and four bytes of value each, big-endian."""
    table = b"".join(struct.pack(">HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + table + bytes(64)


def with_exif(jpeg: bytes, exif: bytes) -> bytes:
    data = b"Exif\0\0" + exif
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data + jpeg[2:]


def chunk(kind: bytes, data: bytes, *, damaged: bool = False) -> bytes:
    checksum = zlib.crc32(kind + data) ^ damaged
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def with_chunk(png: bytes, *chunks: bytes) -> bytes:
    return png[:33] + b"".join(chunks) + png[33:]


TURN = (0x0112, 3, 1, b"\0\x06\0\0")
BROKEN_EXIF = {
    "XResolution as text": (0x011A, 2, 4, b"72.0"),
    "GPS as text": (0x8825, 2, 4, b"here"),
    "negative width": (0x0100, 9, 1, b"\xff\xff\xff\xf6"),
    "signed rational": (0x011A, 10, 1, b"\0\0\0\x30"),
    "unknown type": (0x0132, 99, 1, b"abcd"),
    "far offset": (0x010E, 2, 9999, b"\xff\xff\xff\x00"),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("broken", BROKEN_EXIF)
def test_only_the_orientation_is_read_of_exif(kind: str, broken: str) -> None:
    image = photograph()
    options = {"lossless": True} if kind == "WEBP" else {}
    exif = exif_of(*sorted((TURN, BROKEN_EXIF[broken])))
    plain = encoded(image, kind, **options)
    content = with_exif(plain, exif) if kind == "JPEG" else encoded(image, kind, exif=exif)
    if kind == "WEBP":
        content = encoded(image, kind, exif=exif, lossless=True)
    turned = Image.open(io.BytesIO(plain)).convert("RGB").transpose(Image.Transpose.ROTATE_270)
    found = preprocess(content, LARGE)
    assert np.array_equal(found, preprocess(turned, LARGE))


@pytest.mark.parametrize("rubbish", [b"", b"rubbish", b"MM", b"II*\0\xff\xff\xff\xff", b"\0" * 99])
def test_rubbish_instead_of_exif_is_ignored(rubbish: bytes) -> None:
    jpeg, png = encoded(photograph(), "JPEG"), encoded(photograph(), "PNG")
    assert np.array_equal(pixels(with_exif(jpeg, rubbish)), pixels(jpeg))
    assert np.array_equal(pixels(with_chunk(png, chunk(b"eXIf", rubbish))), pixels(png))
    assert orientation_of(rubbish) == 1


def test_other_metadata_of_a_png_is_ignored() -> None:
    png = encoded(photograph(), "PNG")
    bomb = zlib.compress(b"x" * 20_000_000)
    for data in (
        chunk(b"iCCP", b"name\0\0" + bomb),
        chunk(b"iCCP", b"name\0\7" + bomb),
        chunk(b"zTXt", b"key\0\0" + bomb),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + bomb),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb),
        chunk(b"iTXt", b"key\0\1\0\0\0" + bomb),
        chunk(b"tEXt", b"key\0text", damaged=True),
        chunk(b"tIME", b"no time", damaged=True),
        chunk(b"tEXt", b"key\0" + b"x" * 900) * 3000,
        chunk(b"pHYs", b"1"),
    ):
        assert np.array_equal(pixels(with_chunk(png, data)), pixels(png)), data[:20]
        behind = png[:-12] + data + png[-12:]
        assert np.array_equal(pixels(behind), pixels(png)), data[:20]


def test_the_orientation_may_stand_in_text() -> None:
    png = encoded(photograph(), "PNG")
    turned = pixels(encoded(photograph().transpose(Image.Transpose.ROTATE_270), "PNG"))
    text = b"\nexif\n 9\n" + exif_of(TURN).hex().encode()
    raw = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))
    xmp = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b'<a tiff:Orientation="6"/>')
    assert np.array_equal(pixels(with_chunk(png, raw)), turned)
    assert np.array_equal(pixels(with_chunk(png, xmp)), turned)


@pytest.mark.parametrize("marker", [0xE0, *range(0xE1, 0xF0), 0xFE])
def test_no_segment_of_a_program_makes_a_jpeg_unreadable(marker: int) -> None:
    jpeg = encoded(photograph(), "JPEG")
    for data in (
        b"",
        b"JFIF\0",
        b"Adobe",
        b"Exif\0\0",
        b"ICC_PROFILE\0\2\5x",
        b"MPF\0II*\0",
        b"\xff" * 9,
    ):
        segment = b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data
        assert np.array_equal(pixels(jpeg[:2] + segment + jpeg[2:]), pixels(jpeg)), data
        assert np.array_equal(pixels(jpeg[:20] + segment + jpeg[20:]), pixels(jpeg)), data


@pytest.mark.parametrize("junk", [b"\r\n", b"\n", b"\0\0\0", b"junk", b"\xff\xff"])
def test_junk_before_a_jpeg_is_skipped(junk: bytes) -> None:
    jpeg = encoded(photograph(), "JPEG")
    assert np.array_equal(pixels(junk + jpeg), pixels(jpeg))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'<?xml version="1.0"?>\n<svg xmlns="a"/>', "an SVG file"),
        (b"  <svg/>", "an SVG file"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"%PDF-1.7", "a PDF file"),
        (b"8BPS\0\1", "a Photoshop file"),
        (b"\xff\x0a\0", "JPEG XL"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"<!DOCTYPE html>", "an HTML page"),
        (b"\0\0\2" + bytes(30) + b"TRUEVISION-XFILE.\0", "a Targa file"),
        (bytes(128) + b"DICM", "a DICOM file"),
        (b"\x0a\5\1\x08" + bytes(30), "a PCX file"),
        (b"\xff\xd8\xff\xf7\0\x0b\x08" + bytes(30), "JPEG-LS"),
    ],
)
def test_a_refused_format_is_named(content: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        pixels(content)


def test_a_transparent_colour_is_white_in_every_mode() -> None:
    for mode, colour in (("RGB", (9, 8, 7)), ("L", 9), ("I;16", 700)):
        image = Image.new(mode, (40, 40), colour)
        assert np.all(pixels(encoded(image, "PNG", transparency=colour)) == 255), mode
        assert np.all(pixels(encoded(image, "PNG")) < 10), mode


def test_a_transparent_colour_of_16_bits_is_white() -> None:
    values = np.full((40, 40, 3), 0x1234, ">u2")
    values[20:] = 0x7700
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 40, 16, 2, 0, 0, 0))
    picture = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    transparent = chunk(b"tRNS", struct.pack(">HHH", 0x1234, 0x1234, 0x1234))
    start = b"\x89PNG\r\n\x1a\n" + header
    assert np.all(pixels(start + picture)[:14] == 0x12)
    assert np.all(pixels(start + transparent + picture)[:14] == 255)
    assert np.all(pixels(start + transparent + picture)[18:] == 0x77)


@pytest.mark.parametrize("header", [108, 124])
def test_a_bmp_whose_alpha_is_zero_everywhere_is_opaque(header: int) -> None:
    fields = struct.pack("<IiiHHIIiiII", header, 40, 40, 1, 32, 3, 0, 0, 0, 0, 0)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    start = struct.pack("<2sIII", b"BM", 0, 0, 14 + header) + (fields + masks).ljust(header, b"\0")
    assert np.all(pixels(start + bytes([10, 20, 30, 0]) * 1600) == (30, 20, 10))
    some = bytes([10, 20, 30, 0]) * 1599 + bytes([10, 20, 30, 255])
    assert np.all(pixels(start + some)[16, :16] == 255)


def test_pixels_of_a_bmp_are_no_jpeg() -> None:
    """The first bytes of its pixels are those with which a JPEG starts."""
    image = Image.new("RGB", (40, 40), (0xFF, 0xD8, 0xFF))
    content = encoded(image, "BMP")
    assert b"\xff\xd8\xff" in content[:64]
    assert np.all(pixels(content) == (0xFF, 0xD8, 0xFF))
