"""The model card shows what the check of the data found."""

from pathlib import Path

import pytest

from demo.tabs.its_data import data_html, measured_on
from runtime.model.data_report import ClassCount, DataReport, Duplicates, data_report_json

REPORT = DataReport(
    data="pets",
    classes=(ClassCount(name="<cat>", train=1200, validation=0, test=300),),
    used=1500,
    left_out={"broken": 2},
    duplicates=Duplicates(across_splits=4, near_across_splits=7, across_classes=1),
    warnings=("4 of 300 test images are also in train: <a>.png",),
)


def test_it_shows_counts_and_warnings(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_bytes(data_report_json(REPORT))
    shown = data_html(tmp_path)
    for words in ("1,500", "2 broken", "&lt;cat&gt;", "1,200", "300 test images", "&lt;a&gt;.png"):
        assert words in shown
    assert "<cat>" not in shown


def test_the_figures_say_what_they_were_measured_on(tmp_path: Path) -> None:
    assert measured_on(tmp_path) == "On test images that training never saw."
    (tmp_path / "data.json").write_bytes(data_report_json(REPORT))
    assert measured_on(tmp_path) == "On test images, of which 4 are also among those of training."


def test_a_bundle_without_a_report_shows_nothing(tmp_path: Path) -> None:
    assert data_html(tmp_path) == ""


@pytest.mark.parametrize("content", ["{", '{"data": 3}'])
def test_a_damaged_report_is_said_to_be_so(tmp_path: Path, content: str) -> None:
    (tmp_path / "data.json").write_text(content)
    assert "data.json cannot be read" in data_html(tmp_path)


def test_keys_of_newer_versions_are_ignored(tmp_path: Path) -> None:
    content = data_report_json(REPORT).replace(b'"used"', b'"newer": 1, "used"')
    (tmp_path / "data.json").write_bytes(content)
    assert "1,500" in data_html(tmp_path)
