"""Sixteen bits a channel: sBIT is honoured, and values of fewer bits are told."""

import io
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from runtime.base.errors import ImageError
from runtime.model.card import InputSpec
from runtime.model.preprocess import preprocess

UNIT = (1.0, 1.0, 1.0)
SPEC = InputSpec(size=40, resize=40, crop=40, mean=UNIT, std=UNIT)
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG's number for so many channels


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values: NDArray[np.uint16], *chunks: bytes) -> bytes:
    """A PNG of uint16 values (40, 40, channels)."""
    header = struct.pack(">IIBBBBB", 40, 40, 16, COLOUR_TYPES[values.shape[2]], 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in values.astype(">u2"))
    parts = (
        chunk(b"IHDR", header),
        *chunks,
        chunk(b"IDAT", zlib.compress(rows)),
        chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def ramp(channels: int, bits: int) -> NDArray[np.uint16]:
    rng = np.random.default_rng(bits)
    values = rng.integers(0, 1 << bits, (40, 40, channels), dtype=np.uint16)
    values[0, 0] = (1 << bits) - 1
    if channels in (2, 4):
        values[..., -1] = (1 << bits) - 1
    return values


def asked(content: bytes) -> tuple[NDArray[np.uint8], list[str]]:
    warnings: list[str] = []
    return preprocess(content, SPEC, warn=warnings.append), warnings


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [9, 10, 12, 14])
def test_values_that_sbit_calls_shorter_fill_the_range(channels: int, bits: int) -> None:
    values = ramp(channels, bits)
    colours = values[..., : 1 if channels < 3 else 3]
    expected = np.broadcast_to((colours >> (bits - 8)).astype(np.uint8), (40, 40, 3))
    significant = chunk(b"sBIT", bytes([bits] * channels))
    found, warnings = asked(png(values, significant))
    assert np.array_equal(found, expected)
    assert warnings == []
    # As the specification wants it: the values are scaled, and sBIT changes nothing.
    scaled = values << (16 - bits)
    found, warnings = asked(png(scaled, significant))
    assert np.array_equal(found, expected)
    assert warnings == []


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_values_of_fewer_bits_are_told(channels: int, bits: int) -> None:
    values = ramp(channels, bits)
    if channels in (2, 4):
        values[..., -1] = 0xFFFF  # opaque
    found, warnings = asked(png(values))
    assert found.max() <= 255 >> (16 - bits)
    assert len(warnings) == 1
    assert f"end below {2**bits}, as those of {bits} bits do" in warnings[0]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_values_of_all_bits_are_not_told(channels: int) -> None:
    values = ramp(channels, 16)
    found, warnings = asked(png(values))
    assert warnings == []
    assert found[..., 0].max() == 255
    assert asked(png(np.zeros_like(values)))[1] == []


@pytest.mark.parametrize("bits", [b"", b"\0", b"\x11", b"\x0c\x0c", b"\xff" * 9])
def test_a_broken_sbit_is_ignored(bits: bytes) -> None:
    values = ramp(1, 16)
    assert np.array_equal(asked(png(values, chunk(b"sBIT", bits)))[0], asked(png(values))[0])


def test_a_transparent_colour_of_few_bits_is_white() -> None:
    for channels in (1, 3):
        values = np.full((40, 40, channels), 0x0ABC, np.uint16)
        values[20:] = 0x0123
        transparent = chunk(b"tRNS", b"\x0a\xbc" * channels)
        found, _ = asked(png(values, chunk(b"sBIT", b"\x0c" * channels), transparent))
        assert np.all(found[:20] == 255)
        assert np.all(found[20:] == 0x12)


def with_tag(content: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF whose tag, a short, has another value on every page."""
    found = bytearray(content)
    (place,) = struct.unpack_from("<I", found, 4)
    while place:
        (count,) = struct.unpack_from("<H", found, place)
        for entry in range(place + 2, place + 2 + 12 * count, 12):
            if struct.unpack_from("<H", found, entry)[0] == tag:
                struct.pack_into("<H", found, entry + 8, value)
        (place,) = struct.unpack_from("<I", found, place + 2 + 12 * count)
    return bytes(found)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("pages", [1, 2])
def test_a_tiff_of_16_bits_whose_zero_is_white(compression: str, pages: int) -> None:
    values = ramp(1, 16)[..., 0]
    expected = np.broadcast_to(255 - (values >> 8).astype(np.uint8)[..., None], (40, 40, 3))
    buffer = io.BytesIO()
    others = [Image.fromarray(values.T)] * (pages - 1)
    Image.fromarray(values).save(
        buffer, "TIFF", compression=compression, save_all=True, append_images=others
    )
    assert np.array_equal(asked(with_tag(buffer.getvalue(), 262, 0))[0], expected)
    # As Pillow reads eight bits.
    buffer = io.BytesIO()
    Image.fromarray((values >> 8).astype(np.uint8)).save(buffer, "TIFF", compression=compression)
    assert np.array_equal(asked(with_tag(buffer.getvalue(), 262, 0))[0], expected)


def test_a_tiff_of_16_bits_in_the_other_order_of_bytes() -> None:
    values = ramp(1, 16)[..., 0]
    for zero, expected in ((0, 255 - (values >> 8)), (1, values >> 8)):
        tags = {256: 40, 257: 40, 258: 16, 259: 1, 262: zero, 273: 8, 277: 1, 278: 40, 279: 3200}
        entries = [struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items()]
        table = struct.pack(">H", len(tags)) + b"".join(entries)
        data = values.astype(">u2").tobytes()
        content = b"MM\0*" + struct.pack(">I", 8 + len(data)) + data + table + bytes(4)
        assert np.array_equal(asked(content)[0][..., 0], expected)


def test_few_bits_of_a_tiff_whose_zero_is_white_are_pale() -> None:
    buffer = io.BytesIO()
    Image.fromarray(ramp(1, 12)[..., 0]).save(buffer, "TIFF")
    found, warnings = asked(with_tag(buffer.getvalue(), 262, 0))
    assert found.min() == 255 - 15
    assert "as those of 12 bits do, and give a pale picture" in warnings[0]


def test_a_tiff_of_floats_is_refused_whatever_its_zero_is() -> None:
    buffer = io.BytesIO()
    Image.fromarray(ramp(1, 16)[..., 0].astype(np.float32)).save(buffer, "TIFF")
    for zero in (0, 1):
        with pytest.raises(ImageError, match="mode F has no defined range of values"):
            asked(with_tag(buffer.getvalue(), 262, zero))


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_a_tiff_of_few_bits_is_told(bits: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(ramp(1, bits)[..., 0]).save(buffer, "TIFF")
    assert len(asked(buffer.getvalue())[1]) == (bits < 16)


def test_a_tiff_of_12_bits_a_value_fills_the_range() -> None:
    """Two values lie in three bytes; the strip is packed by hand."""
    values = ramp(1, 12)[..., 0].astype(int)
    first, second = values[:, ::2], values[:, 1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=2)
    data = packed.astype(np.uint8).tobytes()
    tags = {256: 40, 257: 40, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 40, 279: len(data)}
    table = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items()
    )
    content = b"II*\0" + struct.pack("<I", 8 + len(data)) + data + table + bytes(4)
    found, warnings = asked(content)
    assert np.array_equal(found[..., 0], values >> 4)
    assert warnings == []
    assert np.array_equal(asked(with_tag(content, 262, 0))[0][..., 0], 255 - (values >> 4))
