"""Images of every kind, whole and damaged."""

import io
import struct
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from PIL import Image, ImageFilter

from runtime.__main__ import command
from runtime.images.jpeg_files import next_marker


def picture(width: int = 96, height: int = 64) -> Image.Image:
    """A smooth picture whose quarters differ, so that a turn or a mirror shows."""
    quarters = np.array(
        [[[230, 40, 30], [30, 200, 60]], [[40, 60, 220], [240, 220, 70]]], dtype=np.uint8
    )
    return Image.fromarray(quarters).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def whole_images() -> dict[str, bytes]:
    """One valid file of each kind that is accepted."""
    image = picture()
    alpha = image.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(image.size))
    frames = [image.filter(ImageFilter.GaussianBlur(r)) for r in (1, 2)]
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    return {
        "baseline.jpg": encoded(image, "JPEG"),
        "progressive.jpg": encoded(image, "JPEG", progressive=True),
        "grey.jpg": encoded(image.convert("L"), "JPEG"),
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG"),
        "turned.jpg": encoded(image, "JPEG", exif=exif),
        "restarts.jpg": encoded(image, "JPEG", restart_marker_blocks=2),
        "two.jpg": encoded(image, "MPO", save_all=True, append_images=frames),
        "rgb.png": encoded(image, "PNG"),
        "grey.png": encoded(image.convert("L"), "PNG"),
        "alpha.png": encoded(alpha, "PNG"),
        "grey-alpha.png": encoded(alpha.convert("LA"), "PNG"),
        "palette.png": encoded(image.convert("P"), "PNG"),
        "transparent-palette.png": encoded(image.convert("P"), "PNG", transparency=3),
        "one-bit.png": encoded(image.convert("1"), "PNG"),
        "sixteen-bit.png": encoded(
            Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), "PNG"
        ),
        "animated.png": encoded(image, "PNG", save_all=True, append_images=frames),
        "lossy.webp": encoded(image, "WEBP"),
        "lossless.webp": encoded(image, "WEBP", lossless=True),
        "alpha.webp": encoded(alpha, "WEBP"),
        "animated.webp": encoded(image, "WEBP", save_all=True, append_images=frames),
        "rgb.bmp": encoded(image, "BMP"),
        "palette.bmp": encoded(image.convert("P"), "BMP"),
        "one-bit.bmp": encoded(image.convert("1"), "BMP"),
        "palette.gif": encoded(image.quantize(64), "GIF"),
        "grey.gif": encoded(image.convert("L"), "GIF", interlace=0),
        "transparent.gif": encoded(image.quantize(64), "GIF", transparency=3, comment="a picture"),
        "animated.gif": encoded(image, "GIF", save_all=True, append_images=frames),
        "rgb.tif": encoded(image, "TIFF"),
        "lzw.tif": encoded(image, "TIFF", compression="tiff_lzw"),
        "deflate.tif": encoded(image, "TIFF", compression="tiff_adobe_deflate", exif=exif),
        "jpeg.tif": encoded(image, "TIFF", compression="jpeg"),
        "fax.tif": encoded(image.convert("1"), "TIFF", compression="group4"),
        "sixteen-bit.tif": encoded(
            Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), "TIFF"
        ),
        "alpha.tif": encoded(alpha, "TIFF"),
        "cmyk.tif": encoded(image.convert("CMYK"), "TIFF"),
        "pages.tif": encoded(picture(), "TIFF", save_all=True, append_images=[picture()]),
        "rgb.avif": encoded(image, "AVIF", speed=10),
        "alpha.avif": encoded(alpha, "AVIF", speed=10),
        "turned.avif": encoded(image, "AVIF", speed=10, exif=exif),
    }


def hostile_images() -> dict[str, bytes]:
    """Damaged, lying, foreign and oversized files, by a name that says what is wrong."""
    corpus: dict[str, bytes] = {}
    for name, content in whole_images().items():
        corpus |= {f"cut at {cut} of {name}": content[:cut] for cut in cuts(name, content)}
        corpus |= {f"flipped {i} in {name}": flipped(content, seed=i) for i in range(5)}
        corpus[f"junk after {name}"] = content + b"\xff\xd8" * 1000
        corpus[f"junk before {name}"] = b"\0" * 7 + content
        corpus[f"emptied middle of {name}"] = content[:40] + b"\0" * 400 + content[440:]
    return corpus | dict(lying_headers()) | dict(bombs()) | dict(foreign_files())


def cuts(name: str, content: bytes) -> list[int]:
    """Where a truncation hurts: in the header, before and after each marker or chunk, the end."""
    places = {1, 2, 4, 8, 16, 30, len(content) // 2, len(content) - 2, len(content) - 1}
    if name.endswith(".jpg"):
        places |= {i for i in range(len(content) - 1) if content[i] == 255 and content[i + 1] > 191}
    elif name.endswith(".png"):
        for kind in (b"IHDR", b"PLTE", b"tRNS", b"acTL", b"fdAT", b"IDAT", b"IEND"):
            start = content.find(kind)
            places |= {start - 4, start, start + 4, start + 9} if start > 0 else set()
    return sorted(place for place in places if 0 < place < len(content))[:24]


def flipped(content: bytes, *, seed: int) -> bytes:
    """Some bits changed, the first two bytes kept so that the format is still recognised."""
    rng = np.random.default_rng(seed)
    changed = bytearray(content)
    for place in rng.integers(2, len(content), 1 + len(content) // 200):
        changed[place] ^= 1 << rng.integers(8)
    return bytes(changed)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + png_chunk(b"IEND", b"")


def bmp(width: int, height: int, depth: int, compression: int) -> bytes:
    """The header of a BMP whose pixels would follow."""
    return struct.pack("<2sIII", b"BM", 1054, 0, 54) + struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, depth, compression, 0, 0, 0, 0, 0
    )


def lying_headers() -> Iterator[tuple[str, bytes]]:
    """Files whose header names another size, depth or offset than the pixels have."""
    pixels = png_chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    huge = 2**31 - 1
    sizes = ((0, 0), (0, 9), (9, 0), (huge, huge), (huge, 1), (1, huge), (9000, 9000))
    for width, height in sizes:
        yield f"png of {width}x{height}", png(width, height, pixels)
        bmp = struct.pack(
            "<2sIIIIiiHHIIiiII", b"BM", 1054, 0, 54, 40, width, height, 1, 24, *[0] * 6
        )
        yield f"bmp of {width}x{height}", bmp + b"\0" * 1000
        yield f"bmp of {width}x{-height}", bmp[:22] + struct.pack("<i", -height) + bmp[26:]
    for depth, colour in ((3, 2), (16, 3), (1, 2), (8, 1), (8, 7), (255, 255)):
        yield (
            f"png of depth {depth}, colour {colour}",
            png(9, 9, pixels, depth=depth, colour=colour),
        )
    files = whole_images()
    for name in ("baseline.jpg", "progressive.jpg", "grey.jpg", "cmyk.jpg"):
        content = files[name]
        frame = max(content.find(marker) for marker in (b"\xff\xc0", b"\xff\xc2"))
        for height, width in ((0, 0), (1, 1), (64, 65535), (65535, 65535), (7, 9000)):
            size = struct.pack(">HH", height, width)
            yield f"{name} of {width}x{height}", content[: frame + 5] + size + content[frame + 9 :]
        for components in (0, 2, 5, 255):
            changed = content[: frame + 9] + bytes([components]) + content[frame + 10 :]
            yield f"{name} of {components} components", changed
    for orientation in (0, 9, 65535):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"orientation {orientation}", encoded(picture(), "JPEG", exif=exif)
    for place in range(0, 60, 4):
        content = files["turned.jpg"]
        start = content.find(b"Exif") + place
        yield f"exif damaged at {place}", content[:start] + b"\xff" * 4 + content[start + 4 :]


def bombs() -> Iterator[tuple[str, bytes]]:
    """Small files that ask for much memory or time."""
    rows = zlib.compress(b"\0" * 30_000_000, 9)
    yield (
        "png of 30000x8000 in 30 kB",
        png(30000, 8000, png_chunk(b"IDAT", rows), depth=1, colour=0),
    )
    yield (
        "png of 7900x7900 in 180 kB",
        png(7900, 7900, png_chunk(b"IDAT", zlib.compress(b"\0" * (7900 * 3 + 1) * 7900, 9))),
    )
    for kind in (b"zTXt", b"iCCP", b"iTXt"):
        prefix = b"key\0\0" if kind != b"iTXt" else b"key\0\1\0\0\0"
        chunk = png_chunk(kind, prefix + zlib.compress(b"x" * 100_000_000, 1))
        yield f"{kind.decode()} of 100 MB", png(9, 9, chunk)
    many = b"".join(png_chunk(b"tEXt", b"key\0" + b"x" * 900) for _ in range(3000))
    yield "png of 3000 comments", png(9, 9, many)
    progressive = whole_images()["progressive.jpg"]
    last = progressive.rfind(b"\xff\xda")
    scan = progressive[last:-2]
    yield "jpeg of 50000 scans", progressive[:-2] + scan * 50_000 + b"\xff\xd9"
    # The first scan stands for itself, so that it may be repeated.
    first = progressive.find(b"\xff\xda")
    scan = progressive[first : next_marker(progressive, first + 2)]
    yield "jpeg of 150 scans", progressive[:-2] + scan * 150 + b"\xff\xd9"
    side = 8000
    plain = encoded(Image.new("RGB", (side, side)), "JPEG", subsampling=0)
    lone = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 0, 63, 0)  # of the first channel
    yield (
        "plain jpeg of 50000 scans",
        plain[: plain.index(b"\xff\xda")] + lone * 50_000 + b"\xff\xd9",
    )
    head = struct.pack("<2sIIII", b"BM", 0, 0, 54, 40)
    head += struct.pack("<iiHHIIiiII", side, side, 1, 8, 1, 0, 0, 0, 1, 0)
    yield "bmp of 8000 short run lengths", head + bytes(4) + (b"\1\0" + b"\0\0") * side
    yield (
        "bmp with run lengths",
        struct.pack("<2sIIIIiiHHIIiiII", b"BM", 90, 0, 54, 40, side, side, 1, 8, 1, 36, 0, 0, 0, 0)
        + b"\xff\0" * 18,
    )
    photo = whole_images()["baseline.jpg"]
    yield "motion photo of 14 MB", photo + b"\0\0\0\x18ftypmp42" + b"\xff\xda" * 7_000_000
    yield from bombs_of_gif()
    yield from bombs_of_tiff()
    yield "avif of 5000x5000 in 1 kB", encoded(Image.new("L", (5000, 5000)), "AVIF", speed=10)
    yield "webp of 16383x16383", encoded(Image.new("L", (16383, 1)), "WEBP", quality=0)


def bombs_of_gif() -> Iterator[tuple[str, bytes]]:
    """GIF files of many parts before the picture, or of a large picture in few bytes."""
    small = whole_images()["palette.gif"]
    start = 13 + 3 * 64
    yield "gif of 200000 comments", small[:start] + b"!\xfe\1.\0" * 200_000 + small[start:]
    yield (
        "gif of a comment of 1000000 parts",
        small[:start] + b"!\xfe" + b"\1." * 1_000_000 + b"\0" + small[start:],
    )
    yield "gif of 8000x7900 in 100 kB", encoded(Image.new("L", (8000, 7900)), "GIF")
    yield "gif of 65535x65535", small[:6] + b"\xff" * 4 + small[10:]


def tiff(
    width: int, height: int, *tags: tuple[int, int, int, int], data: bytes = b"", order: str = "<"
) -> bytes:
    """A TIFF of one grey page: tag, type, count and value of each entry, and data at byte 8."""
    entries = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1)}
    entries |= {262: (3, 1, 1), 273: (4, 1, 8), 277: (3, 1, 1), 278: (4, 1, height)}
    entries |= {279: (4, 1, len(data))} | {tag: rest for tag, *rest in tags}  # type: ignore[dict-item]
    table = struct.pack(order + "H", len(entries))
    for tag, (kind, count, value) in sorted(entries.items()):
        short = kind == 3 and count == 1
        packed = struct.pack(order + ("HH" if short else "I"), *([value, 0] if short else [value]))
        table += struct.pack(order + "HHI", tag, kind, count) + packed
    data += b"\0" * (len(data) % 2)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "I", 8 + len(data)) + data + table + bytes(4)


def bombs_of_tiff() -> Iterator[tuple[str, bytes]]:
    """TIFF files of many parts, or of a large picture in few bytes, or whose data lie outside."""
    yield "tiff of 9x9", tiff(9, 9, data=bytes(81))
    yield "tiff whose strip lies outside", tiff(9, 9, (273, 4, 1, 9999), data=bytes(81))
    yield "tiff of 65535x65535", tiff(65535, 65535, data=bytes(81))
    rows = zlib.compress(bytes(7900 * 7900), 9)
    yield "tiff of 7900x7900 in 60 kB", tiff(7900, 7900, (259, 3, 1, 8), data=rows)
    for strips in (1000, 60_000):
        places = struct.pack("<I", 8) * strips + struct.pack("<I", 100) * strips
        tags = ((273, 4, strips, 8), (279, 4, strips, 8 + 4 * strips), (278, 4, 1, 1))
        yield f"tiff of {strips} strips", tiff(100, strips, *tags, data=places)
    many = tuple((tag, 4, 1, 0) for tag in range(1000, 9000))
    yield "tiff of 8000 tags", tiff(9, 9, *many, data=bytes(81))
    yield "tiff of compression 34925", tiff(9, 9, (259, 3, 1, 34925), data=bytes(81))
    yield "tiff whose strips have no end", tiff(9, 9, (273, 4, 2**31, 8), data=bytes(81))
    progressive = encoded(picture(64, 64).convert("L"), "JPEG", progressive=True)
    last = progressive.rfind(b"\xff\xda")
    scans = progressive[:-2] + progressive[last:-2] * 50_000 + b"\xff\xd9"
    yield "tiff of a jpeg of 50000 scans", tiff(64, 64, (259, 3, 1, 7), data=scans)


def foreign_files() -> Iterator[tuple[str, bytes]]:
    """Other formats, and nothing at all."""
    image = picture(24, 16)
    for kind in ("ICO", "PPM", "TGA", "PCX", "ICNS", "PDF", "EPS", "SGI", "DDS"):
        yield f"{kind} file", encoded(image, kind)
    for text in (
        "",
        "\0",
        "\n",
        "hello",
        "<svg/>",
        "<html>",
        "{}",
        "%!PS-Adobe",
        "#!/bin/sh",
        "PK\3\4",
    ):
        yield f"text {text!r}", text.encode()
    for magic in (
        b"\xff\xd8",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\0\0\0\0WEBP",
        b"BM",
        b"\x7fELF",
    ):
        yield f"only {magic!r}", magic
        yield f"{magic!r} and zeros", magic + b"\0" * 5000
        yield f"{magic!r} and ones", magic + b"\xff" * 5000
    rng = np.random.default_rng(0)
    for length in (1, 10, 100, 1000, 10_000):
        yield f"{length} random bytes", rng.bytes(length)
        yield f"random bytes {length} after a JPEG's start", b"\xff\xd8\xff\xe0" + rng.bytes(length)


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., CompletedProcess[str]]:
    """`python -m runtime ARGUMENTS` in this process, which saves a second a call."""

    def run(*arguments: str | Path, cwd: Path = tmp_path) -> CompletedProcess[str]:
        words = ["runtime", *map(str, arguments)]
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", words)
        capsys.readouterr()
        with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
            command()
        output, errors = capsys.readouterr()
        code = ended.value.code
        return CompletedProcess(words, code if isinstance(code, int) else 1, output, errors)

    return run


@pytest.fixture(scope="session")
def whole() -> dict[str, bytes]:
    return whole_images()


@pytest.fixture(scope="session")
def hostile() -> dict[str, bytes]:
    return hostile_images()
