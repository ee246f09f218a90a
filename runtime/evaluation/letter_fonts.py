"""Fonts for names in any script, where the usual font lacks their letters."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

# Files of fonts on Linux, Windows and macOS: first with accents, Greek and Cyrillic, which Pillow's
# own font lacks, then with Chinese, Japanese, Korean and other scripts. Pillow looks for a file of
# that name in the system's folders of fonts.
_FALLBACKS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf"),
    *("arial.ttf", "Arial.ttf"),
    *("NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "NotoSansSC-Regular.otf"),
    *("SourceHanSans-Regular.ttc", "wqy-microhei.ttc", "wqy-zenhei.ttc"),
    *("DroidSansFallbackFull.ttf", "ipag.ttf", "NanumGothic.ttf", "NotoSansThai-Regular.ttf"),
    *("NotoSansDevanagari-Regular.ttf", "NotoSansBengali-Regular.ttf"),
    *("NotoSansTamil-Regular.ttf", "msyh.ttc", "simhei.ttf", "YuGothR.ttc", "malgun.ttf"),
    *("LeelawUI.ttf", "Nirmala.ttf", "Nirmala.ttc", "PingFang.ttc", "Hiragino Sans GB.ttc"),
    *("STHeiti Light.ttc", "AppleSDGothicNeo.ttc", "Arial Unicode.ttf"),
    *("unifont.otf", "unifont.ttf"),
)
_NO_LETTER = "\U0010ffff"  # of no script, so every font draws its sign for a missing letter


def font_with(text: str, size: int) -> Font:
    """The usual font, or the first one of this machine that has all letters of the text.

    Letters that no font here has are drawn as the usual font's sign for a missing letter.

    Args:
        text: one line.
        size: in pixels.
    """
    usual = _usual_font(size)
    letters = {letter for letter in text if not letter.isascii()}
    if _has(usual, letters):
        return usual
    return next((font for font in _fallbacks(size) if _has(font, letters)), usual)


def _has(font: Font, letters: set[str]) -> bool:
    missing = bytes(font.getmask(_NO_LETTER))
    return all(bytes(font.getmask(letter)) != missing for letter in letters)


def _fallbacks(size: int) -> Iterator[Font]:
    for name in _FALLBACKS:
        try:
            yield ImageFont.truetype(name, size)
        except OSError:
            continue


def _usual_font(size: int) -> Font:
    """DejaVu Sans where matplotlib is installed, which brings it; otherwise Pillow's own font.

    DejaVu has the letters of more languages. Pillow's font has those of English.
    """
    found = find_spec("matplotlib")
    if found is not None and found.origin is not None:
        file = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if file.is_file():
            return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)
