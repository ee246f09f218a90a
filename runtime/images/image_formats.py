"""Names the format of a file by its first bytes, whatever its name ends in.

The signatures are those of the formats' own specifications and of the IANA registry of media types.
"""

import codecs
import re
from pathlib import Path

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".mpo"),
    *(".avif", ".heic", ".heif", ".hif"),
)
READABLE = "JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or, with the extra heic, HEIC"
START_BYTES = 1024  # that are enough to name a format

_READ = (
    (re.compile(rb"\s{0,16}\xff\xd8\xff", re.DOTALL), "JPEG"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "PNG"),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "WebP"),
    # Two letters alone would be the start of many a text. The length of a header follows.
    (re.compile(rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL), "BMP"),
    (re.compile(rb"GIF8[79]a"), "GIF"),
    # The raw data of a Canon camera start like a TIFF.
    (re.compile(rb"(?:II\*\0|MM\0\*).{4}(?!CR)", re.DOTALL), "TIFF"),
    (re.compile(rb".{4}ftyp(?:avi[fs]|mif1.{4}(?:.{4}){0,8}avif)", re.DOTALL), "AVIF"),
    (re.compile(rb".{4}ftyp(?:hei[cxms]|hev[cxm]|mif1|msf1)", re.DOTALL), "HEIC"),
)
_OTHERS = (
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"%PDF", "a PDF file"),
    (b"%!PS", "a PostScript file"),
    (b"8BPS", "a Photoshop file (PSD)"),
    (b"II*\0", "the raw data of a camera"),
    (b"II+\0", "a BigTIFF file"),
    (b"MM\0+", "a BigTIFF file"),
    (b"\0\0\1\0", "an icon (ICO)"),
    (b"icns", "an icon (ICNS)"),
    (b"DDS ", "a DDS file"),
    (b"\x0a\5\1", "a PCX file"),
    (b"\x01\xda", "an SGI file"),
    (b"AT&TFORM", "a DjVu file"),
    (b"\xd7\xcd\xc6\x9a", "a WMF file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"BPG\xfb", "a BPG file"),
    (b"PF\n", "a Netpbm file (PFM)"),
    (b"/* XPM */", "an XPM file"),
    (b"qoif", "a QOI file"),
    (b"gimp xcf", "a GIMP file (XCF)"),
    (b"\x76\x2f\x31\x01", "an OpenEXR file"),
    (b"#?RADIANCE", "a Radiance file (HDR)"),
    (b"SIMPLE  =", "a FITS file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"PK\3\4", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x1aE\xdf\xa3", "a video"),
    (b"ID3", "a sound file"),
)
_CONTROLS = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")
_NETPBM = re.compile(rb"P[1-7f]\s")


def foreign_format(path: Path) -> str | None:
    """The name of a file's format by its content; None if it is an image that can be decoded.

    A file that cannot be opened counts as an image, so that decoding names it.
    """
    try:
        with path.open("rb") as file:
            start = file.read(START_BYTES)
    except OSError:
        return None
    return None if is_read(start) else format_of(start) or "unknown"


def is_read(content: bytes) -> bool:
    """Whether the first bytes are those of an image that can be decoded."""
    return any(pattern.match(content) for pattern, _ in _READ)


def format_of(content: bytes) -> str:
    """The name of the format by the first bytes; "" if they are those of no format we know."""
    for pattern, name in _READ:
        if pattern.match(content):
            return name
    for start, name in _OTHERS:
        if content.startswith(start):
            return name
    if content[4:8] == b"ftyp":
        return "the raw data of a camera" if content[8:12] == b"crx " else "a video"
    if content.startswith(b"RIFF"):
        return "a sound file" if content[8:12] == b"WAVE" else "a video"
    if _NETPBM.match(content):
        return "a Netpbm file (PBM, PGM or PPM)"
    if content[128:132] == b"DICM":
        return "a DICOM file"
    if content.endswith(b"TRUEVISION-XFILE.\0"):
        return "a Targa file (TGA)"
    return _text_format(content)


def _text_format(content: bytes) -> str:
    start = content[:START_BYTES]
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in text:
        return "an SVG file"
    if text.startswith((b"<html", b"<!doctype html")):
        return "an HTML page"
    # A decoder that waits for more does not mind that the last character may be cut.
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return ""
    return "a text file" if text and not _CONTROLS.search(start) else ""
