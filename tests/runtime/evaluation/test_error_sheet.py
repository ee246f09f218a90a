"""The sheet of errors shows the surest mistakes, in order, and stays readable with odd names."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageFont

from runtime.evaluation import error_sheet, letter_fonts
from runtime.evaluation.class_report import Answered
from runtime.evaluation.error_sheet import write_error_sheet


def mistaken(count: int, names: tuple[str, ...] = ("cat", "dog")) -> Answered:
    """`count` images of the first class that are taken for the second one, ever less surely."""
    sure = np.linspace(0.99, 0.6, count)
    probabilities = np.stack([1 - sure, sure], axis=1)
    return Answered(
        names, np.zeros(count, np.int64), probabilities, [f"cat/{n}" for n in range(count)]
    )


def tint(row: int) -> np.ndarray:
    """A picture whose colour tells its row."""
    return np.full((8, 8, 3), (10 + row, 200, 100), np.uint8)


def pixels_of(file: Path) -> np.ndarray:
    with Image.open(file) as sheet:
        return np.asarray(sheet.convert("RGB")).astype(int)


def tints_of(file: Path) -> list[int]:
    """The rows whose pictures are on the sheet, in reading order."""
    sheet = pixels_of(file)
    is_tint = (sheet[..., 1] == 200) & (sheet[..., 2] == 100)
    found = []
    for top, left in np.argwhere(is_tint):
        row = int(sheet[top, left, 0]) - 10
        if row not in found:
            found.append(row)
    return found


@pytest.mark.parametrize(("count", "shown"), [(1, 1), (7, 7), (24, 24), (60, 24)])
def test_the_surest_mistakes_are_shown_in_order(tmp_path: Path, count: int, shown: int) -> None:
    write_error_sheet(tmp_path / "errors.png", mistaken(count), tint)
    assert tints_of(tmp_path / "errors.png") == list(range(shown))


def test_without_mistakes_the_sheet_says_so(tmp_path: Path) -> None:
    found = Answered(("cat", "dog"), np.array([0, 1]), np.eye(2), ["a", "b"])
    write_error_sheet(tmp_path / "errors.png", found, tint)
    assert pixels_of(tmp_path / "errors.png").min() < 100  # there are letters
    assert tints_of(tmp_path / "errors.png") == []


def test_a_caption_stays_beside_its_picture(tmp_path: Path) -> None:
    """Long names are shortened to the picture's width, so that captions do not run into another."""
    long = ("a" * 300, "W" * 300)
    write_error_sheet(tmp_path / "errors.png", mistaken(2, long), tint)
    sheet = pixels_of(tmp_path / "errors.png").mean(axis=2)
    side, gap = error_sheet._SIDE, error_sheet._GAP
    below = sheet[error_sheet._TITLE + side + 2 :]
    assert (below[:, gap : gap + side] < 200).any()
    assert (below[:, gap + side : 2 * gap + side] > 200).all()


@pytest.mark.parametrize("name", ["日本", "two\nlines", "caf\udce9", "", "a\u202eb"])
def test_odd_names_are_drawn(tmp_path: Path, name: str) -> None:
    write_error_sheet(tmp_path / "errors.png", mistaken(1, (name, "dog")), tint)
    assert tints_of(tmp_path / "errors.png") == [0]


@pytest.mark.parametrize("size", [(200, 20), (20, 200), (400, 300), (1, 1)])
def test_pictures_keep_their_shape(tmp_path: Path, size: tuple[int, int]) -> None:
    height, width = size
    picture = np.full((height, width, 3), (10, 200, 100), np.uint8)
    write_error_sheet(tmp_path / "errors.png", mistaken(1), lambda row: picture)
    sheet = pixels_of(tmp_path / "errors.png")
    rows, columns = np.nonzero((sheet[..., 1] == 200) & (sheet[..., 2] == 100))
    found = (np.ptp(rows) + 1, np.ptp(columns) + 1)
    assert max(found) == error_sheet._SIDE
    assert found[0] / found[1] == pytest.approx(height / width, rel=0.06)


def test_without_matplotlib_pillows_font_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letter_fonts, "find_spec", lambda name: None)
    write_error_sheet(tmp_path / "errors.png", mistaken(3), tint)
    assert tints_of(tmp_path / "errors.png") == [0, 1, 2]


@pytest.mark.parametrize("letters", ["äß", "кот", "γάτα"])
def test_letters_are_drawn_with_a_font_of_the_machine_that_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, letters: str
) -> None:
    """Without matplotlib the usual font is Pillow's own, which has the letters of English only."""
    dejavu = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    monkeypatch.setattr(letter_fonts, "find_spec", lambda name: None)

    def drawn(*fallbacks: str) -> bytes:
        monkeypatch.setattr(letter_fonts, "_FALLBACKS", fallbacks)
        file = tmp_path / "errors.png"
        write_error_sheet(file, mistaken(1, ("a", letters)), tint)
        return file.read_bytes()

    # Of a font without these letters, another name of as many letters would look the same.
    missing = drawn("no-such-font.ttf")
    assert drawn("no-such-font.ttf", str(dejavu)) != missing
    assert letter_fonts.font_with("cat", 14).getname() == ImageFont.load_default(14).getname()
