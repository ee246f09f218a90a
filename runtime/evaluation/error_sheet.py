"""`errors.png`: the worst mistakes of a model as one picture, each with what it is taken for."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from runtime.base.files import atomic_path
from runtime.evaluation.class_report import Answered, Mistake
from runtime.evaluation.letter_fonts import Font, font_with

MAX_SHOWN = 24
_COLUMNS = 6
_SIDE, _GAP = 176, 12  # pixels of a picture on the sheet, and between two of them
_LINE, _TEXT = 19, 14
_LINES = 3
_TITLE = 40
_INK, _FAINT, _WRONG = (20, 20, 20), (110, 110, 110), (176, 0, 32)


def write_error_sheet(
    path: Path, answered: Answered, image_of: Callable[[int], NDArray[np.uint8]]
) -> None:
    """Writes a PNG with the most confident mistakes, at most 24, the worst one first.

    Args:
        path: of the file.
        answered: the images and the answers.
        image_of: gives the picture of a row, uint8 RGB (H, W, 3).
    """
    mistakes = answered.mistakes()
    shown = mistakes[:MAX_SHOWN]
    rows = max(1, -(-len(shown) // _COLUMNS))
    cell = _SIDE + _LINES * _LINE + _GAP
    width = _COLUMNS * (_SIDE + _GAP) + _GAP
    sheet = Image.new("RGB", (width, _TITLE + rows * cell + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    title = _title(answered, mistakes)
    draw.text((_GAP, _GAP), title, _INK, font=font_with(title, _TEXT))
    for number, mistake in enumerate(shown):
        left = _GAP + number % _COLUMNS * (_SIDE + _GAP)
        top = _TITLE + number // _COLUMNS * cell
        picture = _fitted(image_of(mistake.row))
        sheet.paste(picture, (left + (_SIDE - picture.width) // 2, top + _SIDE - picture.height))
        for line, (text, ink) in enumerate(_caption(answered, mistake)):
            place = (left, top + _SIDE + 2 + line * _LINE)
            font = font_with(text, _TEXT)
            draw.text(place, _shortened(text, font, _SIDE), ink, font=font)
    with atomic_path(path) as temporary:
        sheet.save(temporary, "PNG")


def _title(answered: Answered, mistakes: Sequence[Mistake]) -> str:
    count = len(answered.labels)
    if not mistakes:
        return f"No mistakes: all of the {count:,} images are answered rightly."
    worst = "" if len(mistakes) <= MAX_SHOWN else f", the {MAX_SHOWN} most confident ones"
    return f"Wrong on {len(mistakes):,} of {count:,} images{worst}"


def _caption(answered: Answered, mistake: Mistake) -> list[tuple[str, tuple[int, int, int]]]:
    names = answered.class_names
    return [
        (f"{mistake.probability:.0%} {names[mistake.predicted]}", _WRONG),
        (f"label: {names[mistake.true]} ({mistake.true_probability:.0%})", _INK),
        (answered.paths[mistake.row].rpartition("/")[2], _FAINT),
    ]


def _fitted(image: NDArray[np.uint8]) -> Image.Image:
    """The picture as large as fits. Small ones keep their pixels, which are as the network's."""
    picture = Image.fromarray(image)
    scale = _SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _shortened(text: str, font: Font, width: int) -> str:
    """The text without its middle, where it is longer than `width` pixels."""
    text = "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )
    if font.getlength(text) <= width:
        return text
    kept = len(text) - 1
    while kept > 2 and font.getlength(_without_middle(text, kept)) > width:  # noqa: PLR2004
        kept -= 1
    return _without_middle(text, kept)


def _without_middle(text: str, kept: int) -> str:
    return f"{text[: -(-kept // 2)]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - kept // 2 :]}"
