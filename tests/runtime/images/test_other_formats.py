"""GIF, TIFF, AVIF, MPO and HEIC: the first picture, the right colours, and errors in our words."""

import io
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps, features

from runtime import ImageError
from runtime.images import other_files
from runtime.model.card import InputSpec
from runtime.model.preprocess import decode_image, preprocess

UNIT = (1.0, 1.0, 1.0)
SPEC = InputSpec(size=48, resize=48, crop=48, mean=UNIT, std=UNIT)
needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")


def picture() -> Image.Image:
    quarters = np.array([[[230, 40, 30], [30, 200, 60]], [[40, 60, 220], [240, 220, 70]]], np.uint8)
    return Image.fromarray(quarters).resize((96, 64), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(source: bytes | Image.Image) -> NDArray[np.uint8]:
    return preprocess(source, SPEC, name="x")


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


EXACT = {
    "plain TIFF": {},
    "LZW": {"compression": "tiff_lzw"},
    "deflate": {"compression": "tiff_adobe_deflate"},
    "pack bits": {"compression": "packbits"},
}


@pytest.mark.parametrize("way", EXACT)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK", "P", "1"])
def test_a_tiff_has_the_pixels_of_its_picture(way: str, mode: str) -> None:
    image = picture().convert(mode)
    assert np.array_equal(pixels(encoded(image, "TIFF", **EXACT[way])), pixels(image))


def test_formats_with_loss_come_close() -> None:
    whole = pixels(picture())
    assert difference(pixels(encoded(picture(), "TIFF", compression="jpeg")), whole) < 4
    assert difference(pixels(encoded(picture().quantize(256), "GIF")), whole) < 4


@needs_avif
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_an_avif_comes_close_and_is_upright(orientation: int) -> None:
    turn = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}
    turn[8] = Image.Transpose.ROTATE_270
    stored = picture() if turn[orientation] is None else picture().transpose(turn[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = pixels(encoded(stored, "AVIF", quality=95, exif=exif))
    assert difference(found, pixels(picture())) < 4


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_upright_once(orientation: int, order: str) -> None:
    """With a page of 2x1 pixels, whose places after each turn are known by hand."""
    tags = {256: 2, 257: 1, 258: 8, 259: 1, 262: 1, 273: 8, 274: orientation}
    tags |= {277: 1, 278: 1, 279: 2}
    table = struct.pack(order + "H", len(tags)) + b"".join(
        struct.pack(order + "HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items()
    )
    magic = b"II*\0" if order == "<" else b"MM\0*"
    content = magic + struct.pack(order + "I", 10) + b"\x00\xff" + table + bytes(4)
    expected = [[0, 255], [255, 0], [255, 0], [0, 255], [0, 255], [0, 255], [255, 0], [255, 0]]
    found = np.asarray(decode_image(content, SPEC))[..., 0]
    assert found.shape == ((1, 2) if orientation < 5 else (2, 1))
    assert found.flatten().tolist() == expected[orientation - 1]


def test_only_the_first_picture_is_read() -> None:
    other = ImageOps.mirror(picture())
    for kind in ("TIFF", "GIF", "MPO") + (("AVIF",) if features.check("avif") else ()):
        content = encoded(picture(), kind, save_all=True, append_images=[other])
        assert difference(pixels(content), pixels(picture())) < 8, kind


def test_a_gif_is_white_where_it_shows_nothing() -> None:
    image = Image.new("P", (64, 64), 1)
    image.putpalette([0, 0, 0, 200, 0, 0])
    assert np.all(pixels(encoded(image, "GIF", transparency=1)) == 255)
    assert np.all(pixels(encoded(image, "GIF")) == (200, 0, 0))
    content = encoded(image, "GIF")
    start = content.index(b",", 13)  # the picture's place and size follow
    assert content[start + 1 : start + 9] == struct.pack("<4H", 0, 0, 64, 64)
    wide = content[:6] + struct.pack("<2H", 128, 64) + content[10:start]
    moved = wide + b"," + struct.pack("<4H", 64, 0, 64, 64) + content[start + 9 :]
    spec = InputSpec(size=64, resize=64, crop=64, mean=UNIT, std=UNIT)
    found = preprocess(moved, spec)  # the middle half
    assert np.all(found[:, :32] == 255)
    assert np.all(found[:, 32:] == (200, 0, 0))


def test_metadata_of_a_tiff_never_make_it_unreadable() -> None:
    plain = encoded(picture(), "TIFF")
    (start,) = struct.unpack_from("<I", plain, 4)
    (count,) = struct.unpack_from("<H", plain, start)
    for tag in (270, 282, 305, 700, 34675, 34665, 34853, 37724):
        for kind, place in ((2, 2**31), (99, 0), (4, 5), (7, len(plain) - 1)):
            bad = struct.pack("<HHII", tag, kind, 2**28, place)
            table = plain[start + 2 : start + 2 + 12 * count] + bad
            content = plain[:4] + struct.pack("<I", len(plain)) + plain[8:]
            content += struct.pack("<H", count + 1) + table + struct.pack("<I", start)
            assert np.array_equal(pixels(content), pixels(plain)), (tag, kind)


def test_the_raw_data_of_a_camera_are_named() -> None:
    plain = encoded(picture(), "TIFF")
    (start,) = struct.unpack_from("<I", plain, 4)
    (count,) = struct.unpack_from("<H", plain, start)
    for entry in (struct.pack("<HHII", 50706, 1, 4, 0x401), struct.pack("<HHII", 254, 4, 1, 1)):
        table = struct.pack("<H", count + 1) + entry + plain[start + 2 : start + 2 + 12 * count]
        content = plain[:4] + struct.pack("<I", len(plain)) + plain[8:] + table + bytes(4)
        with pytest.raises(ImageError, match="the raw data of a camera"):
            pixels(content)
    with pytest.raises(ImageError, match="the raw data of a camera"):
        pixels(b"II*\0\x10\0\0\0CR\2\0" + bytes(99))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"])
def test_the_suffix_says_nothing(kind: str, tmp_path: Path) -> None:
    content = encoded(picture(), kind)
    for name in ("a.jpg", "a.png", "a.jfif", "a", "a.txt"):
        (tmp_path / name).write_bytes(content)
        assert np.array_equal(preprocess(tmp_path / name, SPEC), pixels(content))


def heic() -> bytes:
    return b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0\0\0\x08free"


def test_without_its_extra_heic_is_refused_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    other_files.heic_is_read.cache_clear()
    try:
        with pytest.raises(ImageError, match=r"HEIC.*pip install 'skd-edge\[heic\]'"):
            pixels(heic())
    finally:
        other_files.heic_is_read.cache_clear()


def test_with_its_extra_heic_is_read_upright() -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    for orientation, turn in ((1, None), (6, Image.Transpose.ROTATE_90)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = picture() if turn is None else picture().transpose(turn)
        content = encoded(stored, "HEIF", quality=95, exif=exif.tobytes())
        assert difference(pixels(content), pixels(picture())) < 5
        with pytest.raises(ImageError, match="HEIC end early"):
            pixels(content[: len(content) // 2])


def test_an_avif_that_pillow_cannot_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(ImageError, match="AVIF, which this Pillow cannot read"):
        pixels(b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + b"\0\0\0\x08free")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 99, "PNG are damaged"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 99, "JPEG"),
        (b"P5\n3 3\n255\n123456789", "a Netpbm file"),
        (b"II+\0\x08\0\0\0", "a BigTIFF file"),
        (bytes(range(1, 99)), "of no format that is known"),
        (b"just words", "a text file"),
        (b"\xff\xd8\xff\xc0\x00\x11\x0c" + bytes(40), "a JPEG of 12 bits a colour"),
    ],
)
def test_errors_are_in_our_words(content: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        pixels(content)


def test_a_damaged_tiff_prints_nothing_beside_its_error(capfd: pytest.CaptureFixture[str]) -> None:
    """Libtiff writes on the process's stderr, once for each such strip of each picture."""
    content = bytearray(encoded(picture(), "TIFF", compression="tiff_lzw"))
    (strip,) = Image.open(io.BytesIO(content)).tag_v2[273][:1]
    content[strip + 2 : strip + 20] = b"\xff" * 18
    with pytest.raises(ImageError):
        pixels(bytes(content))
    assert capfd.readouterr() == ("", "")
