"""A picture whose data end early is refused, with or without an end marker; a whole one is read."""

import io

import numpy as np
import pytest
from PIL import Image, features

from runtime import ImageError
from runtime.images.jpeg_files import next_marker, read_jpeg
from runtime.model.card import InputSpec
from runtime.model.preprocess import preprocess

UNIT = (1.0, 1.0, 1.0)
SPEC = InputSpec(size=32, resize=36, crop=32, mean=UNIT, std=UNIT)
END = b"\xff\xd9"
JPEGS = {
    "baseline": {},
    "without subsampling": {"quality": 95, "subsampling": 0},
    "optimised": {"optimize": True},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
}
OTHERS = {
    "PNG": ("PNG", {}),
    "GIF": ("GIF", {}),
    "lossy WebP": ("WEBP", {}),
    "lossless WebP": ("WEBP", {"lossless": True}),
    "BMP": ("BMP", {}),
    "plain TIFF": ("TIFF", {}),
    "LZW TIFF": ("TIFF", {"compression": "tiff_lzw"}),
    "JPEG TIFF": ("TIFF", {"compression": "jpeg"}),
}


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height))).astype(int)
    noisy = smooth + rng.integers(-9, 9, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def refused(content: bytes) -> bool:
    """Whether it is refused as one that ends early; any other error fails."""
    try:
        preprocess(content, SPEC, name="x")
    except ImageError as error:
        if "end early" in str(error):
            return True
        raise
    return False


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(64, 64), (224, 160)])
@pytest.mark.parametrize("way", JPEGS)
def test_a_cut_jpeg_is_refused(way: str, size: tuple[int, int], mode: str) -> None:
    content = encoded(photograph(*size).convert(mode), "JPEG", **JPEGS[way])
    for share in (0.5, 0.9, 0.99):
        cut = content[: int(share * len(content))]
        assert refused(cut), share
        assert refused(cut + END), share
        assert refused(cut + b"\xff" + END), share


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("way", JPEGS)
def test_a_whole_jpeg_is_read_with_any_end(way: str, mode: str) -> None:
    for side in range(40, 72, 3):  # at the ends, the data have all numbers of bits
        content = encoded(photograph(side, side + 9, side).convert(mode), "JPEG", **JPEGS[way])
        with Image.open(io.BytesIO(content)) as image:
            image.draft(None, (36, 36))
            expected = preprocess(image, SPEC)
        for whole in (content, content[:-1], content[:-2], content + b"\0" * 99, content + content):
            assert np.array_equal(preprocess(whole, SPEC), expected)


@pytest.mark.parametrize("way", OTHERS)
def test_a_cut_file_of_another_format_is_refused(way: str) -> None:
    kind, options = OTHERS[way]
    content = encoded(photograph(224, 160), kind, **options)
    assert not refused(content)
    assert all(refused(content[: int(share * len(content))]) for share in (0.5, 0.9, 0.99))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_a_cut_avif_is_refused() -> None:
    content = encoded(photograph(224, 160), "AVIF", speed=10)
    assert all(refused(content[: int(share * len(content))]) for share in (0.5, 0.9, 0.99))
    assert not refused(content + b"\xff" * 99)


def test_a_progressive_jpeg_lacks_none_of_its_scans() -> None:
    content = encoded(photograph(64, 64), "JPEG", progressive=True)
    starts = [i for i in range(len(content) - 1) if content[i : i + 2] == b"\xff\xda"]
    assert len(starts) > 5
    for start in starts[:-1]:
        end = next_marker(content, start + 2)
        assert refused(content[:end] + END)
        assert refused(content[: end + 1] + END)


def test_scans_are_counted_to_the_end_of_the_picture() -> None:
    for options in JPEGS.values():
        content = encoded(photograph(64, 64), "JPEG", **options)
        video = b"\0\0\0\x18ftypmp42" + b"\xff\xda" * 1_000_000
        assert np.array_equal(preprocess(content + video, SPEC), preprocess(content, SPEC))
        assert len(read_jpeg(content + video).data) < len(content) + 100


def test_bytes_that_only_fill_are_skipped() -> None:
    content = encoded(photograph(64, 64), "JPEG")
    scan = content.index(b"\xff\xda")
    filled = content[:2] + b"\xff" * 5 + content[2:scan] + b"\xff\xff" + content[scan:-2]
    assert np.array_equal(preprocess(filled + b"\xff" * 3 + END, SPEC), preprocess(content, SPEC))


def test_a_marker_is_found_over_blocks() -> None:
    for place in (0, 5, 65534, 65535, 65536, 131070, 131071, 200_000):
        content = b"\xff\0" * (place // 2) + b"." * (place % 2) + END + b"\xff\xda"
        assert next_marker(content, 0) == place
        assert next_marker(content[:place] + b"\xff\xd0\xff\0\xff", 0) == place + 5


def test_the_decoder_is_fed_as_pillow_feeds_it() -> None:
    """`_load_scans` uses what Pillow does not document: its own incremental parser does, too."""
    with Image.open(io.BytesIO(encoded(photograph(64, 64), "JPEG"))) as image:
        codec, extents, offset, arguments = image.tile[0]
        assert (codec, extents, offset) == ("jpeg", (0, 0, 64, 64), 0)
        decoder = Image._getdecoder(image.mode, codec, arguments, image.decoderconfig)
        assert {"decode", "setimage", "cleanup"} <= {*dir(decoder)}
