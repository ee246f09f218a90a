"""One image, many encodings: the same pixels reach the network."""

import hashlib
import io
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from runtime import ImageError, Limits
from runtime.model.card import InputSpec
from runtime.model.preprocess import decode_image, fit_image, preprocess

COLOURS = [[[230, 40, 30], [30, 200, 60]], [[40, 60, 220], [240, 220, 70]]]


def spec(size: int = 32, resize: int = 36, interpolation: str = "bilinear") -> InputSpec:
    return InputSpec(
        size=size,
        resize=resize,
        crop=size,
        interpolation=interpolation,  # type: ignore[arg-type]
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )


def picture(width: int = 96, height: int = 64) -> Image.Image:
    quarters = Image.fromarray(np.array(COLOURS, np.uint8))
    return quarters.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def resize_then_crop(image: Image.Image, spec: InputSpec) -> NDArray[np.uint8]:
    """The two steps of everybody else's evaluation."""
    scale = spec.resize / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    resized = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (resized.width - spec.crop) // 2, (resized.height - spec.crop) // 2
    return np.asarray(resized.crop((left, top, left + spec.crop, top + spec.crop)))


@pytest.mark.parametrize("size", [(96, 64), (64, 96), (360, 360), (37, 500)])
def test_one_resize_equals_resize_then_crop(size: tuple[int, int]) -> None:
    image = picture(*size)
    found = preprocess(image, spec())
    assert found.shape == (32, 32, 3)
    assert found.dtype == np.uint8
    assert difference(found, resize_then_crop(image, spec())) < 2  # they round differently


def test_an_image_of_the_input_size_passes_unchanged() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(preprocess(pixels, spec(resize=32)), pixels)
    assert not np.array_equal(preprocess(pixels, spec(resize=36)), pixels)


def test_bicubic_differs_from_bilinear() -> None:
    image = picture(20, 20)
    assert (
        difference(preprocess(image, spec()), preprocess(image, spec(interpolation="bicubic")))
        > 0.1
    )


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = picture().convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    expected = preprocess(image.convert("RGB"), spec())
    assert np.array_equal(preprocess(image, spec()), expected)
    if kind == "PNG":
        assert np.array_equal(preprocess(encoded(image, kind), spec()), expected)


def test_cmyk_jpeg_keeps_its_colours() -> None:
    found = preprocess(encoded(picture().convert("CMYK"), "JPEG", quality=95), spec())
    assert difference(found, preprocess(picture(), spec())) < 3


def test_sixteen_bit_grey_keeps_its_range() -> None:
    grey = np.asarray(picture().convert("L"))
    deep = encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG")
    assert Image.open(io.BytesIO(deep)).mode == "I;16"
    assert np.array_equal(preprocess(deep, spec()), preprocess(Image.fromarray(grey), spec()))


def test_transparent_pixels_are_white() -> None:
    clear = Image.new("RGBA", (64, 64), (200, 0, 0, 0))
    half = Image.new("RGBA", (64, 64), (0, 0, 0, 128))
    palette = Image.new("P", (64, 64), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    for image, value in ((clear, 255), (half, 127)):
        assert np.all(preprocess(encoded(image, "PNG"), spec()) == value)
        assert np.all(preprocess(image, spec()) == value)
    assert np.all(preprocess(encoded(palette, "PNG", transparency=1), spec()) == 255)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_modes_without_a_range_are_refused(mode: str) -> None:
    with pytest.raises(ImageError, match=f"mode {mode} has no defined range"):
        preprocess(picture().convert("L").convert(mode), spec())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # the viewer turns it back by 270
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = picture()
    stored = upright.transpose(turns[orientation]) if orientation in turns else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(stored, "JPEG", exif=exif, quality=95)
    expected = preprocess(upright, spec())
    assert difference(preprocess(content, spec()), expected) < 3
    assert difference(preprocess(Image.open(io.BytesIO(content)), spec()), expected) < 3


def test_large_jpegs_are_decoded_small_but_not_too_small() -> None:
    content = encoded(picture(1920, 1440), "JPEG", quality=90)
    assert decode_image(content, spec(), name="x").size == (240, 180)  # 1/8
    assert decode_image(content, spec(224, 256)).size == (480, 360)  # 1/4: 1/8 is below 256
    full = fit_image(Image.open(io.BytesIO(content)), spec(224, 256))
    assert difference(preprocess(content, spec(224, 256)), full) < 1


def test_first_picture_of_several() -> None:
    frames = [ImageOps.mirror(picture())]
    for kind in ("MPO", "WEBP", "PNG"):
        content = encoded(picture(), kind, save_all=True, append_images=frames)
        assert difference(preprocess(content, spec()), preprocess(picture(), spec())) < 4


def test_limits_are_checked_before_decoding() -> None:
    content = encoded(picture(), "PNG")
    with pytest.raises(ImageError, match=r"a\.png: 96x64 pixels, the limit is 6143"):
        preprocess(content, spec(), limits=Limits(max_pixels=6143), name="a.png")
    assert preprocess(content, spec(), limits=Limits(max_pixels=6144)).any()
    with pytest.raises(ImageError, match=f"{len(content)} bytes, the limit is 100"):
        preprocess(content, spec(), limits=Limits(max_bytes=100))
    with pytest.raises(ImageError, match="pixels, the limit"):
        preprocess(picture(), spec(), limits=Limits(max_pixels=100))


def test_files_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "empty.jpg").touch()
    for path, words in (
        (tmp_path / "pipe.jpg", "is not a regular file"),
        (tmp_path, "is not a regular file"),
        (Path("/dev/zero"), "is not a regular file"),
        (tmp_path / "absent.jpg", "cannot be read (No such file"),
        (tmp_path / "empty.jpg", "is empty"),
        ("nul\0l.jpg", "cannot be read (embedded null"),
    ):
        with pytest.raises(ImageError) as caught:
            preprocess(path, spec())
        assert str(path) in str(caught.value)
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("array", "received"),
    [
        (np.zeros((4, 4, 3), np.float32), r"float32 \(4, 4, 3\)"),
        (np.zeros((4, 4), np.uint8), r"uint8 \(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"empty array \(0, 4, 3\)"),
    ],
)
def test_arrays_of_another_form_are_refused(array: NDArray[np.uint8], received: str) -> None:
    with pytest.raises(ImageError, match=received):
        preprocess(array, spec())


def test_an_array_that_is_the_input_is_not_copied() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert preprocess(pixels, spec(resize=32)) is pixels
    assert preprocess(pixels, spec(resize=36)) is not pixels


def test_an_array_may_have_any_memory_layout() -> None:
    pixels = np.asarray(picture())
    expected = preprocess(picture(), spec())
    assert np.array_equal(preprocess(np.asfortranarray(pixels), spec()), expected)
    assert np.array_equal(preprocess(pixels[::1, ::-1][:, ::-1], spec()), expected)


def test_colours_are_rgb_not_bgr() -> None:
    red = struct.pack("BBB", 255, 0, 0)
    image = Image.frombytes("RGB", (64, 64), red * 64 * 64)
    for kind in ("PNG", "BMP", "JPEG", "WEBP"):
        pixel = preprocess(encoded(image, kind), spec())[16, 16]
        assert pixel[0] > 240
        assert max(pixel[1:]) < 15


PICTURES = Path(__file__).parents[1] / "data" / "pictures"


@pytest.mark.parametrize("name", json.loads((PICTURES / "sha256.json").read_text()))
def test_pixels_are_those_that_they_always_were(name: str) -> None:
    """Byte for byte: a network must see in its next version what it was trained on."""
    content = (PICTURES / name).read_bytes()
    specs = {
        "32 of 36": spec(),
        "64": spec(64, 64),
        "24 bicubic": spec(24, 24, "bicubic"),
    }
    found = {
        words: hashlib.sha256(preprocess(content, each).tobytes()).hexdigest()[:32]
        for words, each in specs.items()
    }
    assert found == json.loads((PICTURES / "sha256.json").read_text())[name]
