"""Many pictures at once, without a browser."""

import csv
import io
from pathlib import Path

from demo.service.models import Models
from demo.service.picture import Upload
from demo.tabs.many import batch_html, classify_many, csv_text


def test_broken_pictures_do_no_harm_to_the_others(models: Models, pictures: Path) -> None:
    names = ["red.png", "text.jpg", "huge.jpg", "gone.png", "blue.webp"]
    reports: list[tuple[int, int]] = []
    uploads = [Upload(pictures / name, name) for name in names]
    batch = classify_many(models.first, uploads, progress=lambda *done: reports.append(done))
    labels = [item.predictions[0].label if item.predictions else None for item in batch.items]
    assert labels == ["red", None, None, None, "blue"]
    assert [item.problem for item in batch.items][1:4] == [
        "text.jpg: not a readable image (a text file); expected JPEG, PNG, WebP, BMP, GIF, "
        "TIFF, AVIF or, with the extra heic, HEIC",
        "huge.jpg: larger than 16 MB; send a smaller file",
        "gone.png: did not arrive; send it again",
    ]
    assert reports == [(5, 5)]
    assert "2 answered" in batch_html(batch)


def test_the_csv_file_holds_no_formula_and_the_grid_no_markup(
    models: Models, pictures: Path
) -> None:
    hostile = ["=HYPERLINK(0)", "+1", "@x", "<script>alert(1)</script>", 'a"b,c\nd']
    uploads = [Upload(pictures / "red.png", name) for name in hostile]
    batch = classify_many(models.first, uploads, progress=lambda *_: None)
    rows = list(csv.DictReader(io.StringIO(csv_text(batch))))
    assert [row["file"] for row in rows] == ["'=HYPERLINK(0)", "'+1", "'@x", *hostile[3:]]
    assert "<script" not in batch_html(batch)
