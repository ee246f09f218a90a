"""A run folder says which classes and pictures fail; mislabelled test images head the list."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics

from training import finish, run
from training.config.plan import Plan
from training.data import Dataset
from training.engine.trainer import Trainer

CLASSES = ("dark", "bright", "striped")
PLANTED = {"test/dark/03.png": "bright", "test/striped/05.png": "dark"}
SIZE = 16


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 30 training and 12 test images; two of those show another class."""
    root = tmp_path_factory.mktemp("planted") / "pictures"
    generator = np.random.default_rng(0)
    patterns = dict.fromkeys(CLASSES, np.zeros((SIZE, SIZE, 3)))
    patterns["dark"] = np.full((SIZE, SIZE, 3), 60.0)
    patterns["bright"] = np.full((SIZE, SIZE, 3), 190.0)
    patterns["striped"] = np.zeros((SIZE, SIZE, 3))
    patterns["striped"][::2] = 240
    for split, count in (("train", 30), ("test", 12)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                path = f"{split}/{name}/{number:02}.png"
                shown = patterns[PLANTED.get(path, name)]
                noisy = shown + generator.normal(scale=30, size=shown.shape)
                Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(root / path)
    return root


@pytest.fixture(scope="module")
def options(pictures: Path, tiny_recipe_file: Path) -> list[str]:
    return [
        *("--arch", "mobilenetv2", "--width", "0.25", "--device", "cpu", "--image-size", str(SIZE)),
        *("--data", str(pictures), "--recipe", str(tiny_recipe_file), "--epochs", "8"),
    ]


@pytest.fixture(scope="module")
def finished(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert run.main([*options, "--out", str(folder)]) == 0
    return folder


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def test_mislabelled_images_head_the_errors(finished: Path) -> None:
    rows = rows_of(finished / "errors.csv")
    first = rows[: len(PLANTED)]
    assert {row["path"]: row["predicted"] for row in first} == PLANTED
    assert [row["true"] for row in first] == [row["path"].split("/")[1] for row in first]
    assert all(float(row["probability"]) > float(row["true_probability"]) for row in rows)


def test_the_files_and_result_say_the_same(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    classes, errors = rows_of(finished / "classes.csv"), rows_of(finished / "errors.csv")
    assert [row["class"] for row in classes] == sorted(CLASSES)
    assert [int(row["test"]) for row in classes] == [12, 12, 12]
    trained = sum(int(row["train"]) for row in classes)
    held_out = sum(int(row["validation"]) for row in classes)
    assert (trained, held_out) == (result["train_images"], result["validation_images"])
    assert len(errors) == round((1 - result["top1"]) * 36)
    labels = np.repeat(np.arange(3), 12)
    predicted = labels.copy()
    names = sorted(CLASSES)
    paths = sorted(f"test/{name}/{number:02}.png" for name in CLASSES for number in range(12))
    for row in errors:
        predicted[paths.index(row["path"])] = names.index(row["predicted"])
    expected = metrics.balanced_accuracy_score(labels, predicted)
    assert result["balanced_accuracy"] == pytest.approx(expected)
    assert result["macro_f1"] == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    recall = metrics.recall_score(labels, predicted, average=None)
    worst = {"name": names[int(recall.argmin())], "recall": pytest.approx(recall.min())}
    assert result["worst_class"] == worst
    assert [float(row["recall"]) for row in classes] == pytest.approx(recall)
    confusion = [list(row.values())[1:] for row in rows_of(finished / "confusion.csv")]
    expected = metrics.confusion_matrix(labels, predicted)
    assert [[int(cell) for cell in row] for row in confusion] == expected.tolist()


def test_the_sheet_is_written_unless_it_is_not_wanted(
    finished: Path, options: list[str], tmp_path: Path
) -> None:
    with Image.open(finished / "errors.png") as sheet:
        assert sheet.width > 1000
    assert "error-sheet" not in json.loads((finished / "result.json").read_text())["command"]
    folder = tmp_path / "private"
    folder.mkdir()
    (folder / "errors.png").write_bytes(b"of a former run")
    assert run.main([*options, "--epochs", "1", "--out", str(folder), "--no-error-sheet"]) == 0
    assert not (folder / "errors.png").exists()
    assert (folder / "errors.csv").is_file()


def test_classes_are_counted_by_their_true_labels(
    make_plan: Callable[..., Plan], tiny_data: Dataset, tmp_path: Path
) -> None:
    """`label_noise` moves training images to other classes, of which the table knows nothing."""
    counts = {}
    for noise in (0.0, 0.5):
        plan = make_plan("ce", label_noise=noise)
        trainer = Trainer(plan, tiny_data, device=torch.device("cpu"))
        logits = np.zeros((len(tiny_data.test_labels), len(CLASSES)), np.float32)
        answered = finish._answered(trainer.dataset, logits, 1.0)
        finish._report(trainer, answered, tmp_path, error_sheet=False)
        counts[noise] = [row["train"] for row in rows_of(tmp_path / "classes.csv")]
    assert counts[0.5] == counts[0.0] == ["12", "12", "12"]


def test_rows_of_arrays_are_named(tiny_options: list[str], tmp_path: Path) -> None:
    assert run.main([*tiny_options, "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    for row in rows_of(tmp_path / "run" / "errors.csv"):
        assert row["path"].startswith("test_images.npy#")
