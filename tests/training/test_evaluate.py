"""`python training/evaluate.py RUN DATA`: the run's student on new labelled images."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.base.errors import UserError
from training import evaluate, run

CLASSES = ("dark", "bright", "striped")
SIZE = 16


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluated") / "pictures"
    generator = np.random.default_rng(0)
    levels = dict(zip(CLASSES, (60, 190, 125), strict=True))
    for split, count in (("train", 20), ("test", 8)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.normal(levels[name], 40, (20, 24, 3))
                image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
                image.save(root / split / name / f"{number:02}.png")
    return root


@pytest.fixture(scope="module")
def finished(
    pictures: Path, tiny_recipe_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("evaluated_run") / "run"
    arguments = [
        *("--arch", "mobilenetv2", "--width", "0.25", "--device", "cpu", "--image-size", str(SIZE)),
        *("--data", str(pictures), "--recipe", str(tiny_recipe_file), "--epochs", "3"),
    ]
    assert run.main([*arguments, "--out", str(folder)]) == 0
    return folder


def test_a_place_for_the_files_is_checked_first(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file; expected a folder"):
        evaluate.main([str(finished), "no such data", "--out", str(tmp_path / "file")])


def test_the_runs_own_test_images_have_the_runs_own_figures(
    finished: Path, pictures: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert evaluate.main([str(finished), str(pictures / "test"), "--json"]) == 0
    found = json.loads(capsysbinary.readouterr().out)
    result = json.loads((finished / "result.json").read_text())
    for key in ("top1", "top5", "balanced_accuracy", "macro_f1", "worst_class"):
        assert found[key] == pytest.approx(result[key]), key
    assert found["ece"] == pytest.approx(result["ece"], abs=1e-4)
    assert found["images"] == 24
    assert (finished / "evaluation" / "errors.png").is_file()
    written, own = finished / "evaluation", finished
    assert (written / "confusion.csv").read_text() == (own / "confusion.csv").read_text()
    with (own / "errors.csv").open(newline="") as lines:
        errors = [row["path"].removeprefix("test/") for row in csv.DictReader(lines)]
    assert sorted(row["path"] for row in found["errors"]) == sorted(errors)


def test_other_images_have_other_figures(
    finished: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = shutil.copytree(pictures / "test", tmp_path / "new")
    shutil.rmtree(new / "bright")
    (new / "dark").rename(new / "bright")  # now every label of these is wrong
    shutil.rmtree(new / "striped")
    arguments = [str(finished), str(new), "--out", str(tmp_path / "report"), "--no-error-sheet"]
    assert evaluate.main(arguments) == 0
    said = capsys.readouterr().out
    assert f"{new}: no images of dark, striped" in said
    assert "8 images: top-1" in said
    assert f"files  {tmp_path / 'report'}" in said
    assert not (tmp_path / "report" / "errors.png").exists()
    assert not (tmp_path / "evaluation").exists()


def test_mistakes_are_one_line(finished: Path, pictures: Path, tmp_path: Path) -> None:
    for arguments, words in (
        ([str(tmp_path), str(pictures)], "is not a run"),
        ([str(finished), str(tmp_path / "absent")], "is not a folder"),
        ([str(finished), str(pictures)], "has the class 'bright' more than once"),
    ):
        with pytest.raises(UserError, match=words) as error:
            evaluate.main(arguments)
        assert "\n" not in str(error.value)
