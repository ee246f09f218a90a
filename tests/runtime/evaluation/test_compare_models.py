"""`python -m runtime compare`: chance is no loss, a loss is found, and nothing else is compared."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest

from runtime.base.errors import UserError
from runtime.evaluation.compare_models import compare_answers, mcnemar, shared_classes
from runtime.evaluation.compare_on_images import compare_on_folder
from runtime.inference.open_classifier import open_classifier
from runtime.model.bundle import read_card, write_card
from runtime.model.card_json import json_from_card

Cli = Callable[..., CompletedProcess[str]]


@pytest.mark.parametrize(
    ("worse", "better"), [(3, 1), (1, 3), (10, 30), (0, 7), (5, 5), (900, 1100), (4000, 4200)]
)
def test_the_p_value_is_that_of_the_exact_binomial_test(worse: int, better: int) -> None:
    expected = binomtest(worse, worse + better).pvalue
    assert mcnemar(worse, better) == pytest.approx(expected, rel=1e-9)


def test_no_flips_are_no_difference() -> None:
    assert mcnemar(0, 0) == 1.0


def test_the_figures_of_a_comparison() -> None:
    labels = np.array([0, 0, 1, 1, 2])
    old = np.array([0, 0, 1, 0, 2])
    new = np.array([0, 1, 1, 1, 0])
    found = compare_answers(old, new, labels, ("a", "b", "c", "empty"), range(10, 15))
    assert (found.images, found.worse, found.better) == (5, 2, 1)
    assert (found.old_top1, found.new_top1, found.agreement) == (0.8, 0.6, 0.4)
    assert [(row.name, row.old_recall, row.new_recall) for row in found.classes] == [
        ("a", 1.0, 0.5),
        ("b", 0.5, 1.0),
        ("c", 1.0, 0.0),
    ]
    assert [(flip.image, flip.true, flip.old, flip.new) for flip in found.flipped] == [
        (11, "a", "a", "b"),
        (14, "c", "c", "a"),
        (13, "b", "a", "b"),
    ]


@pytest.mark.parametrize(("lost", "is_worse"), [(7, False), (8, True)])
def test_eight_losses_without_a_gain_are_beyond_chance(lost: int, is_worse: bool) -> None:
    """Two to the power of 1 - 7 is above 0.01, and of 1 - 8 below it."""
    labels = np.zeros(100, np.int64)
    new = np.where(np.arange(100) < lost, 1, 0)
    assert compare_answers(labels, new, labels, ("a", "b"), range(100)).is_worse is is_worse
    assert not compare_answers(new, labels, labels, ("a", "b"), range(100)).is_worse


def test_equally_good_models_are_called_worse_in_less_than_one_of_200_pairs() -> None:
    """The level is 0.01, two-sided: worse is at most half of it."""
    generator = np.random.default_rng(0)
    labels = np.zeros(1000, np.int64)
    alarms = 0
    for _ in range(1000):
        old, new = (generator.random((2, 1000)) < 0.1).astype(np.int64)
        alarms += compare_answers(old, new, labels, ("a", "b"), range(1000)).is_worse
    assert alarms <= 12  # of 5 expected; more than 12 have a probability of 0.2 %


def test_classes_are_matched_by_name() -> None:
    assert shared_classes(("a", "b", "c"), ("c", "a", "b")).tolist() == [2, 0, 1]
    with pytest.raises(UserError, match=r"different classes \(c, d: in one of them only\)"):
        shared_classes(("a", "b", "c"), ("a", "b", "d"))
    one, two = "caf\u00e9", "cafe\u0301"  # a Mac writes the second form
    assert shared_classes((one, "tea"), ("tea", two)).tolist() == [1, 0]
    assert shared_classes((two, "tea"), ("tea", one)).tolist() == [1, 0]
    assert shared_classes((one, two), (two, one)).tolist() == [1, 0]  # two classes of both models
    with pytest.raises(UserError, match="know different classes"):
        shared_classes((one, two), (one,))


@pytest.fixture
def other(toy_bundle: Path, tmp_path: Path) -> Path:
    """A bundle like the toy one."""
    bundle = tmp_path / "other"
    shutil.copytree(toy_bundle, bundle)
    return bundle


def rename_classes(bundle: Path, *names: str) -> None:
    """The network's outputs then mean other classes; the test images keep their labels."""
    write_card(bundle, msgspec.structs.replace(read_card(bundle), class_names=names))


def test_a_model_is_not_worse_than_itself(cli: Cli, toy_bundle: Path, other: Path) -> None:
    shown = cli("compare", toy_bundle, other, "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    found = json.loads(shown.stdout)
    keys = ("old_top1", "new_top1", "images", "worse", "better", "p_value")
    assert [found[key] for key in keys] == [1.0, 1.0, 24, 0, 0, 1.0]
    assert [row["name"] for row in found["classes"]] == ["red", "green", "blue"]


def test_a_worse_model_ends_in_exit_3_with_the_images_that_flipped(
    cli: Cli, toy_bundle: Path, other: Path
) -> None:
    rename_classes(other, "green", "red", "blue")
    shown = cli("compare", toy_bundle, other, "--json")
    found = json.loads(shown.stdout)
    assert shown.returncode == 3
    assert (found["worse"], found["better"], found["new_top1"]) == (16, 0, pytest.approx(1 / 3))
    assert found["flipped"][0] == {"image": 0, "true": "red", "old": "red", "new": "green"}
    assert "worse beyond chance" in shown.stderr
    assert shown.stderr.count("\n") == 1


def test_a_lone_file_is_compared_on_the_bundle_of_the_other(
    cli: Cli, toy_bundle: Path, tmp_path: Path
) -> None:
    lone = tmp_path / "lone.onnx"
    shutil.copyfile(toy_bundle / "model.onnx", lone)
    for pair in ((lone, toy_bundle), (toy_bundle, lone)):
        shown = cli("compare", *pair)
        assert shown.returncode == 0
        assert shown.stdout.startswith("24 images: top-1 100.00% old, 100.00% new\n")
    shown = cli("compare", lone, lone)
    assert shown.returncode == 2
    assert "has held-out test images beside it; `python -m runtime compare OLD" in shown.stderr


def test_other_test_images_in_the_new_bundle_are_told(
    cli: Cli, toy_bundle: Path, other: Path
) -> None:
    with np.load(other / "holdout.npz") as holdout:
        arrays = {name: array[:12] for name, array in holdout.items()}
    np.savez(other / "holdout.npz", **arrays)
    shown = cli("compare", toy_bundle, other)
    assert shown.returncode == 0
    assert "hold different test images; those of the first one are used" in shown.stderr
    assert shown.stdout.startswith("24 images")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"class_names": ("red", "green", "azure")}, "(azure, blue: in one of them only)"),
        ({"class_names": ("red", "green")}, "other/"),
        ({"resize": 40}, "the models see different images"),
    ],
)
def test_models_that_cannot_be_compared_are_refused(
    cli: Cli, toy_bundle: Path, other: Path, change: dict[str, object], words: str
) -> None:
    card = read_card(other)
    if "resize" in change:
        card = msgspec.structs.replace(card, input=msgspec.structs.replace(card.input, **change))
    else:
        card = msgspec.structs.replace(card, **change)
    (other / "card.json").write_bytes(json_from_card(card))
    shown = cli("compare", toy_bundle, other)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert words in shown.stderr
    assert shown.stderr.count("\n") == 1


def test_models_of_other_inputs_are_compared_on_a_folder(
    cli: Cli, toy_bundle: Path, other: Path, tmp_path: Path
) -> None:
    """Each sees the pictures in its own way; the flipped ones are named by their paths."""
    card = read_card(other)
    card = msgspec.structs.replace(
        card,
        class_names=("green", "red", "blue"),
        input=msgspec.structs.replace(card.input, resize=40),
    )
    (other / "card.json").write_bytes(json_from_card(card))
    colours = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
    for name, colour in colours.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(4):
            picture = Image.new("RGB", (50 + number, 40), colour)
            picture.save(tmp_path / "data" / name / f"{number}.png")
    (tmp_path / "data" / "red" / "notes.txt").write_text("no picture")
    shown = cli("compare", toy_bundle, other, tmp_path / "data", "--json")
    found = json.loads(shown.stdout)
    assert (found["images"], found["worse"], found["better"]) == (12, 8, 0)
    assert {flip["image"] for flip in found["flipped"]} == {
        f"{name}/{number}.png" for name in ("red", "green") for number in range(4)
    }
    assert shown.returncode == 3  # 2 to the power of 1 - 8 is below 0.01


def test_a_picture_whose_name_is_no_utf8_is_named_by_its_codes(
    cli: Cli, toy_bundle: Path, other: Path, tmp_path: Path
) -> None:
    rename_classes(other, "green", "red", "blue")
    for name, colour in (("red", (200, 30, 30)), ("green", (30, 200, 30))):
        (tmp_path / "data" / name).mkdir(parents=True)
        picture = tmp_path / "data" / name / os.fsdecode(b"caf\xe9.png")
        Image.new("RGB", (32, 32), colour).save(picture)
    shown = cli("compare", toy_bundle, other, tmp_path / "data", "--json")
    assert (shown.returncode, shown.stderr.count("Traceback")) == (0, 0)
    flipped = json.loads(shown.stdout)["flipped"]
    assert {flip["image"] for flip in flipped} == {"red/caf\\xe9.png", "green/caf\\xe9.png"}


def test_a_folder_of_other_classes_is_refused(cli: Cli, toy_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "cat").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(tmp_path / "data" / "cat" / "1.png")
    shown = cli("compare", toy_bundle, toy_bundle, tmp_path / "data")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert "cat" in shown.stderr


def test_a_picture_that_changes_between_the_two_models_is_named(
    toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("red", "green"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (32, 32), name).save(tmp_path / "data" / name / f"{number}.png")
    lost = tmp_path / "data" / "red" / "1.png"
    with open_classifier(toy_bundle) as old, open_classifier(toy_bundle) as new:
        prepare = new.prepare

        def prepare_late(file: Path) -> NDArray[np.uint8]:
            lost.unlink(missing_ok=True)
            return prepare(file)

        monkeypatch.setattr(new, "prepare", prepare_late)
        with pytest.raises(UserError, match=r"red/1\.png could be read for one model and not for"):
            compare_on_folder(old, new, tmp_path / "data", note=lambda line: None)
        again = compare_on_folder(old, new, tmp_path / "data", note=lambda line: None)
    assert again.images == 5
