"""A bundle's report is read back as it was written; one that is damaged or foreign is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo.service.reports import ERRORS_SHOWN, read_report
from demo.tabs.what_fails import what_fails_html
from runtime.base.errors import BundleError
from runtime.evaluation.class_report import Answered, write_class_report
from runtime.evaluation.error_sheet import write_error_sheet
from runtime.model.bundle import read_card

NAMES = ("red", "green", "blue")


@pytest.fixture
def answered() -> Answered:
    """130 of 150 images are answered wrongly: two thirds of the greens as red."""
    generator = np.random.default_rng(0)
    labels = np.arange(150) % 3
    predicted = np.where(labels == 1, np.where(np.arange(150) % 9 < 6, 0, 1), (labels + 1) % 3)
    sure = generator.uniform(0.5, 1, 150)
    probabilities = np.full((150, 3), ((1 - sure) / 2)[:, None])
    probabilities[np.arange(150), predicted] = sure
    return Answered(NAMES, labels, probabilities, [f"test/<{row}>.png" for row in range(150)])


@pytest.fixture
def bundle(toy_bundle: Path, answered: Answered, tmp_path: Path) -> Path:
    folder = shutil.copytree(toy_bundle, tmp_path / "bundle")
    write_class_report(folder, answered, train=np.array([7, 8, 9]))
    write_error_sheet(
        folder / "errors.png", answered, lambda row: np.full((8, 8, 3), row, np.uint8)
    )
    return folder


def test_the_report_is_read_as_it_was_written(bundle: Path, answered: Answered) -> None:
    report = read_report(bundle, NAMES)
    assert report is not None
    assert [row.name for row in report.classes] == list(NAMES)
    assert [row.train for row in report.classes] == [7, 8, 9]
    assert [row.test for row in report.classes] == [50, 50, 50]
    assert [row.recall for row in report.classes] == answered.figures.recall.tolist()
    assert report.confused == answered.most_confused(8)
    mistakes = answered.mistakes()
    assert report.count == len(mistakes)
    assert len(report.errors) == ERRORS_SHOWN < report.count
    assert [row.path for row in report.errors] == [
        answered.paths[mistake.row] for mistake in mistakes[:ERRORS_SHOWN]
    ]
    assert report.sheet is not None
    assert report.sheet.width > 1000


def test_a_bundle_without_a_report_and_one_without_a_sheet(bundle: Path, toy_bundle: Path) -> None:
    assert read_report(toy_bundle, NAMES) is None
    assert read_report(toy_bundle / "model.onnx", NAMES) is None
    (bundle / "errors.png").unlink()
    report = read_report(bundle, NAMES)
    assert report is not None
    assert report.sheet is None


def _other_columns(bundle: Path) -> None:
    text = (bundle / "classes.csv").read_text()
    (bundle / "classes.csv").write_text(text.replace("recall", "remembered"))


def _a_word_for_a_number(bundle: Path) -> None:
    text = (bundle / "confusion.csv").read_text()
    (bundle / "confusion.csv").write_text(text.replace("\nred,", "\nred,many"))


def _a_number_too_large(bundle: Path) -> None:
    text = (bundle / "confusion.csv").read_text()
    (bundle / "confusion.csv").write_text(text.replace("\nred,", "\nred,9" + "0" * 30))


def _half_a_row(bundle: Path) -> None:
    (bundle / "errors.csv").write_bytes((bundle / "errors.csv").read_bytes()[:-12])


def _bytes_that_are_no_text(bundle: Path) -> None:
    (bundle / "errors.csv").write_bytes(b"\xff\xfe\xff")


def _no_confusion(bundle: Path) -> None:
    (bundle / "confusion.csv").unlink()


def _no_picture(bundle: Path) -> None:
    (bundle / "errors.png").write_bytes(b"no picture")


def _another_format(bundle: Path) -> None:
    Image.new("RGB", (9, 9)).save(bundle / "errors.png", "GIF")


def _a_picture_too_large(bundle: Path) -> None:
    Image.new("1", (3000, 3000)).save(bundle / "errors.png", "PNG")


def _fewer_rows(bundle: Path) -> None:
    lines = (bundle / "confusion.csv").read_text().splitlines(keepends=True)
    (bundle / "confusion.csv").write_text("".join(lines[:-1]))


@pytest.mark.parametrize(
    "damage",
    [
        _other_columns,
        _a_word_for_a_number,
        _a_number_too_large,
        _half_a_row,
        _bytes_that_are_no_text,
        _no_confusion,
        _no_picture,
        _another_format,
        _a_picture_too_large,
        _fewer_rows,
    ],
)
def test_a_damaged_report_is_one_line_and_a_notice(
    bundle: Path, damage: Callable[[Path], None]
) -> None:
    damage(bundle)
    with pytest.raises(BundleError, match="the files that say what fails cannot be read") as error:
        read_report(bundle, NAMES)
    assert "\n" not in str(error.value)
    html = what_fails_html(read_card(bundle), bundle)
    assert "export the run again" in html
    assert "<table" not in html


def test_a_report_of_other_classes_is_refused(bundle: Path) -> None:
    with pytest.raises(BundleError, match="are not those of the model"):
        read_report(bundle, ("red", "green", "grey"))


def test_the_page_shows_classes_words_and_the_sheet(bundle: Path, answered: Answered) -> None:
    html = what_fails_html(read_card(bundle), bundle)
    assert html.count("<tr>") == 1 + 3 + 1 + ERRORS_SHOWN
    order = [html.index(f'<th scope="row">{name}</th>') for name in ("red", "blue", "green")]
    assert order == sorted(order)  # none of the reds and blues is found, and a third of the greens
    assert 'aria-sort="ascending"><button type="button">Recall</button>' in html
    assert f'<data value="{answered.figures.recall[1]:g}">' in html
    for pair in answered.most_confused(8):
        assert pair.words.replace("'", "&#x27;") in html
    assert '<img class="sheet" src="data:image/webp;base64,' in html
    assert "wrong answers, the 100 most confident ones" in html
    assert "test/&lt;" in html
    assert "test/<" not in html
