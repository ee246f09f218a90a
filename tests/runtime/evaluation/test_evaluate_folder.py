"""`python -m runtime evaluate`: a bundle on new labelled images, by folder, on any backend."""

import csv
import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

from runtime.base.errors import UserError
from runtime.evaluation.labelled_folder import read_labelled_folder

Cli = Callable[..., CompletedProcess[str]]
COLOURS = {"red": 0, "green": 1, "blue": 2}
PER_CLASS = 6
# The second picture of `green` shows red, and the last one of `blue` shows green.
PLANTED = {"green/1.png": "red", "blue/5.png": "green"}


def picture(colour: str, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 120, (40, 50, 3), dtype=np.uint8)
    pixels[..., COLOURS[colour]] += 120
    return Image.fromarray(pixels)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "new"
    for number in range(PER_CLASS):
        for name in COLOURS:
            (root / name).mkdir(parents=True, exist_ok=True)
            shown = PLANTED.get(f"{name}/{number}.png", name)
            picture(shown, 10 * number + COLOURS[name]).save(root / name / f"{number}.png")
    return root


def one_error(shown: CompletedProcess[str], *words: str) -> None:
    assert shown.returncode == 2, shown.stderr
    assert shown.stdout == ""
    assert len(shown.stderr.splitlines()) == 1
    for word in words:
        assert word in shown.stderr


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_figures_are_those_of_the_images(
    cli: Cli, toy_bundle: Path, data: Path, precision: str
) -> None:
    shown = cli("evaluate", toy_bundle, "--json", data, "--precision", precision)
    assert shown.returncode == 0, shown.stderr
    (line,) = shown.stdout.splitlines()
    found = json.loads(line)
    names = [row["name"] for row in found["classes"]]
    assert set(names) == set(COLOURS)
    labels = np.repeat(range(3), PER_CLASS)
    predicted = labels.copy()
    for path, colour in PLANTED.items():
        name, number = path.removesuffix(".png").split("/")
        predicted[names.index(name) * PER_CLASS + int(number)] = names.index(colour)
    assert found["images"] == 3 * PER_CLASS
    assert found["top1"] == metrics.accuracy_score(labels, predicted) == 16 / 18
    expected = metrics.balanced_accuracy_score(labels, predicted)
    assert found["balanced_accuracy"] == pytest.approx(expected)
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    columns = metrics.precision_recall_fscore_support(labels, predicted)
    for key, values in zip(("precision", "recall", "f1", "images"), columns, strict=True):
        assert [row[key] for row in found["classes"]] == pytest.approx(values)
    assert {row["path"]: row["predicted"] for row in found["errors"]} == PLANTED
    sure = [row["probability"] for row in found["errors"]]
    assert sure == sorted(sure, reverse=True)
    assert (found["backend"], found["precision"]) == ("onnx-cpu", precision)
    assert found["left_out"] == {}
    assert len(found["confused"]) == len(PLANTED)
    assert {(pair["true"], pair["predicted"], pair["count"]) for pair in found["confused"]} == {
        (path.split("/")[0], colour, 1) for path, colour in PLANTED.items()
    }


def test_the_files_are_written_where_they_are_asked_for(
    cli: Cli, toy_bundle: Path, data: Path, tmp_path: Path
) -> None:
    shown = cli("evaluate", toy_bundle, data, "--out", tmp_path / "report")
    assert shown.returncode == 0, shown.stderr
    assert "18 images: top-1 88.89%" in shown.stdout
    assert "1 of the 6 images of 'green' is taken for 'red'" in shown.stdout
    with (tmp_path / "report" / "errors.csv").open(newline="") as lines:
        assert {row["path"] for row in csv.DictReader(lines)} == set(PLANTED)
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "classes.csv",
        "confusion.csv",
        "errors.csv",
        "errors.png",
    ]
    cli("evaluate", toy_bundle, data, "--out", tmp_path / "report", "--no-error-sheet")
    assert not (tmp_path / "report" / "errors.png").exists()


def test_broken_images_are_named_and_many_are_an_error(
    cli: Cli, toy_bundle: Path, data: Path
) -> None:
    (data / "red" / "0.png").write_bytes(b"no picture")
    shown = cli("evaluate", toy_bundle, data, "--json")
    assert shown.returncode == 0
    assert "skipped" in shown.stderr
    assert str(data / "red" / "0.png") in shown.stderr
    found = json.loads(shown.stdout)
    assert (found["images"], found["left_out"]) == (17, {"broken": 1})
    (data / "red" / "1.png").write_bytes(b"no picture")
    shown = cli("evaluate", toy_bundle, data, "--json")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert "2 of 18 images are broken" in shown.stderr.splitlines()[-1]


def test_mistakes_are_one_line(cli: Cli, toy_bundle: Path, data: Path, tmp_path: Path) -> None:
    def evaluate(*words: object) -> CompletedProcess[str]:
        return cli("evaluate", toy_bundle, *words, "--json")

    one_error(cli("evaluate", toy_bundle, tmp_path / "absent", "--json"), "is not a folder")
    one_error(cli("evaluate", toy_bundle), "no data were named after the model")
    one_error(evaluate(data, "--no-error-sheet"), "--no-error-sheet does nothing without --out")
    one_error(evaluate(data, data), "received 3 arguments, expected MODEL and DATA")
    (tmp_path / "empty").mkdir()
    one_error(evaluate(tmp_path / "empty"), "has no folders; expected one for each class")
    (tmp_path / "empty" / "red").mkdir()
    one_error(evaluate(tmp_path / "empty"), "holds no images in its class folders")
    (data / "yellow").mkdir()
    one_error(evaluate(data), "has the folders yellow, which are no classes of the model")


def test_a_place_for_the_files_is_checked_before_the_images_are_answered(
    cli: Cli, toy_bundle: Path, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for place in ("file", "file/below"):
        shown = cli("evaluate", toy_bundle, data, "--out", tmp_path / place)
        one_error(shown, f"{tmp_path / 'file'} is a file; expected a folder")


NAMES = ("cat", "dog", "café")


def folder_of(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / path, "PNG")
    return root


def read(root: Path) -> dict[str, str]:
    """The class of each image's path."""
    found = read_labelled_folder(root, NAMES, lambda line: None)
    return {path: NAMES[label] for path, label in zip(found.paths, found.labels, strict=True)}


def test_class_folders_may_lie_deeper(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "a", "animals/cat/1.png", "animals/dog/x/2.png", "café/3.png")
    assert read(root) == {
        "animals/cat/1.png": "cat",
        "animals/dog/x/2.png": "dog",
        "café/3.png": "café",
    }
    assert read(folder_of(tmp_path / "b", "test/cat/1.png")) == {"test/cat/1.png": "cat"}


def test_two_forms_of_one_name_are_one_class(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "café")
    assert set(read(folder_of(tmp_path / "a", f"{decomposed}/1.png")).values()) == {"café"}


def test_a_class_by_its_path(tmp_path: Path) -> None:
    names = ("indoor/cat", "outdoor/cat", "dog")
    root = folder_of(tmp_path / "a", "indoor/cat/1.png", "outdoor/cat/2.png", "dog/3.png")
    found = read_labelled_folder(root, names, lambda line: None)
    assert [names[label] for label in found.labels] == ["indoor/cat", "outdoor/cat", "dog"]


@pytest.mark.parametrize(
    "paths",
    [
        ("train/cat/1.png", "test/cat/1.png"),
        ("cat/1.png", "more/cat/1.png"),
    ],
)
def test_a_class_in_two_places_is_refused(tmp_path: Path, paths: tuple[str, ...]) -> None:
    """Images that were trained on would be among those that are tested on."""
    with pytest.raises(UserError, match="has the class 'cat' more than once"):
        read(folder_of(tmp_path / "a", *paths))


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "a", "cat/1.png", "cat/.hidden.png", "beside.png", "dog/2.png")
    (root / "cat" / "notes.txt").write_text("")
    lines: list[str] = []
    found = read_labelled_folder(root, NAMES, lines.append)
    assert found.left_out == {"hidden": 1, "not an image": 1, "beside the class folders": 1}
    assert lines == [
        f"{root}: left out: beside the class folders 1, hidden 1, not an image 1",
        f"{root}: beside the class folders: beside.png",
        f"{root}: no images of café",
    ]


def test_what_is_left_out_is_told_of_every_folder_that_was_searched(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "a", "test/cat/1.png", "test/stray.png", "top.png", "x/dog/2.png")
    (root / "test" / "notes.txt").write_text("")
    (root / "again").symlink_to(root)
    lines: list[str] = []
    found = read_labelled_folder(root, NAMES, lines.append)
    assert found.paths == ["test/cat/1.png", "x/dog/2.png"]
    assert found.left_out == {
        "beside the class folders": 2,
        "not an image": 1,
        "folder read already": 1,
    }
    assert f"{root}: beside the class folders: test/stray.png, top.png" in lines


@pytest.mark.parametrize("strange", ["unknown/x.png", "test/unknown/x.png", "unknown/deep/x.png"])
def test_a_folder_that_is_no_class_is_refused_wherever_the_class_folders_lie(
    tmp_path: Path, strange: str
) -> None:
    """Its images are labelled, too: figures without them would not be those of the data."""
    root = folder_of(tmp_path / "a", "test/cat/1.png", "test/dog/2.png", strange)
    with pytest.raises(UserError, match="has the folders unknown, which are no classes"):
        read(root)


def test_a_linked_class_folder_is_read_and_a_loop_is_not(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "a", "cat/1.png")
    other = folder_of(tmp_path / "b", "2.png")
    (root / "dog").symlink_to(other)
    (root / "cat" / "again").symlink_to(root)
    assert read(root) == {"cat/1.png": "cat", "dog/2.png": "dog"}


@pytest.mark.parametrize("link", ["café/again", "dog"])
def test_one_folder_in_two_classes_is_refused(tmp_path: Path, link: str) -> None:
    """Its images would count for the class that comes first in the order of names."""
    root = folder_of(tmp_path / "a", "cat/1.png", "café/3.png")
    (root / link).symlink_to(root / "cat")
    with pytest.raises(UserError, match="are one folder, by a link: its images would be in"):
        read(root)


@pytest.mark.parametrize("inner", ["cat/dog/2.png", "cat/old/dog/2.png", "cat/dog/x/2.png"])
def test_a_class_folder_in_that_of_another_class_is_refused(tmp_path: Path, inner: str) -> None:
    root = folder_of(tmp_path / "a", "cat/1.png", inner, "cat/cat/3.png")
    (root / "cat" / "café").mkdir()  # it holds no image
    with pytest.raises(UserError, match="dog is called like a class of the model, and lies in the"):
        read(root)
    (root / inner).unlink()
    assert read(root) == {"cat/1.png": "cat", "cat/cat/3.png": "cat"}


def test_a_class_below_another_one_by_its_path(tmp_path: Path) -> None:
    """As `--classes leaves` names them, where images lie in both folders."""
    names = ("indoor", "indoor/cat", "outdoor/cat")
    root = folder_of(tmp_path / "a", "indoor/1.png", "indoor/cat/x/2.png", "outdoor/cat/3.png")
    found = read_labelled_folder(root, names, lambda line: None)
    assert [names[label] for label in found.labels] == ["indoor", "indoor/cat", "outdoor/cat"]
    assert found.paths == ["indoor/1.png", "indoor/cat/x/2.png", "outdoor/cat/3.png"]


def test_the_newest_run_is_evaluated_without_a_model(
    cli: Cli, toy_bundle: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copytree(toy_bundle, tmp_path / "runs" / "latest")
    shown = cli("evaluate", data)
    assert shown.returncode == 0, shown.stderr
    assert "model: runs/latest" in shown.stdout
