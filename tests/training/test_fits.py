"""The recipe's key `fit`: what a training sees of pictures that are no squares."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from edge_marks import write_edge_marks
from PIL import Image

from runtime.base.errors import UserError
from runtime.model.card import FITS, Fit, InputSpec
from runtime.model.preprocess import preprocess
from training import check_data, run
from training.augmentation.augment import CROP_SCALE, Augmentation, smallest_crop
from training.augmentation.crops import draw_boxes, padded_crop
from training.config.recipe import recipe_from_values
from training.data import load_dataset
from training.engine.build import build_augmentation
from training.records.checkpoint import load_trained

QUICK = {
    "epochs": 14,
    "batch_size": 20,
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "schedule": "one-cycle",
    "padding": 1,
}
STUDENT = ("--arch", "shufflenetv2", "--width", "0.5", "--image-size", "16", "--device", "cpu")


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_edge_marks(tmp_path_factory.mktemp("fits") / "marks", train=24, test=20)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "quick.yaml"
    file.write_text("\n".join(f"{key}: {value}" for key, value in QUICK.items()))
    return file


def test_a_class_at_the_edge_is_learned_only_from_whole_pictures(
    marks: Path, quick: Path, tmp_path: Path
) -> None:
    """Ten classes: chance is 10 %, and of 200 test images more than 34 % are never chance."""
    top1 = {}
    for fit in FITS:
        out = tmp_path / fit
        words = [*STUDENT, "--data", str(marks), "--recipe", str(quick), "--fit", fit]
        assert run.main([*words, "--out", str(out), "--allow-leaks"]) == 0
        result = json.loads((out / "result.json").read_text())
        assert result["recipe"]["fit"] == fit
        assert f"--fit {fit}" in result["command"]
        assert load_trained(out).plan.input.fit == fit
        top1[fit] = result["top1"]
    assert top1["crop"] < 0.2
    assert top1["letterbox"] > 0.95
    assert top1["stretch"] > 0.9


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [32, 72])
def test_every_image_of_a_data_set_is_what_the_runtime_makes_of_it(
    marks: Path, fit: Fit, size: int
) -> None:
    data = load_dataset(str(marks), image_size=size, fit=fit, progress=False)
    assert data.input.fit == fit
    spec = data.input
    for row in (0, 57, 199):
        wanted = preprocess(marks / data.test_paths[row], spec)
        assert np.array_equal(data.test_images[row], wanted)
    if fit != "crop":  # a crop is drawn from a square with a margin
        stored = preprocess(marks / data.train_paths[3], spec)
        assert np.array_equal(data.train_images[3], stored)
        assert np.array_equal(preprocess(data.train_images[3], spec), stored)


def test_data_of_squares_are_the_same_in_each_way() -> None:
    crop, letterbox, stretch = (load_dataset("digits", image_size=16, fit=fit) for fit in FITS)
    assert [data.input.fit for data in (crop, letterbox, stretch)] == list(FITS)
    assert crop.content_digest() == letterbox.content_digest() == stretch.content_digest()


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_arrays_are_fitted_too(tmp_path: Path, fit: Fit) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 48, 3), np.uint8)
    for split in ("train", "test"):
        np.save(tmp_path / f"{split}_images.npy", pixels)
        np.save(tmp_path / f"{split}_labels.npy", np.arange(6) % 2)
    data = load_dataset(str(tmp_path), image_size=24, fit=fit, progress=False)
    assert np.array_equal(data.train_images[4], preprocess(pixels[4], data.input))


def test_the_bars_of_a_letterbox_are_no_part_of_a_picture(
    marks: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """White pictures are blank though their bars are grey, and are no duplicates of each other."""
    for split in ("train", "test"):
        for number in range(24):
            folder = tmp_path / split / f"class {number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng([number, split == "test"]).integers(0, 256, (20, 60, 3))
            Image.fromarray(noise.astype(np.uint8)).save(folder / f"{number}.png")
        Image.new("RGB", (60, 20), (255, 255, 255)).save(tmp_path / split / "class 0" / "blank.png")
    found = {}
    for fit in FITS:
        words = [str(tmp_path), "--fit", fit, "--image-size", "32", "--json"]
        assert check_data.main(words) == 0
        found[fit] = json.loads(capsysbinary.readouterr().out)
    for report in found.values():
        assert report["duplicates"]["across_splits"] == 0
        assert report["duplicates"]["near_across_splits"] == 0
        assert sum("2 pictures are of one colour" in text for text in report["warnings"]) == 1
    advice = "--fit letterbox shows pictures whole"
    told = {fit: sum(advice in text for text in found[fit]["warnings"]) for fit in FITS}
    assert told == {"crop": 1, "letterbox": 0, "stretch": 0}


def test_the_check_says_how_much_the_square_shows(
    marks: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert check_data.main([str(marks), "--image-size", "16", "--json"]) == 0
    warnings = json.loads(capsysbinary.readouterr().out)["warnings"]
    assert (
        "half of the pictures are at least 3.0 times as long as wide, and the square at the centre "
        "shows 33% of such a picture or less; --fit letterbox shows pictures whole"
    ) in warnings


def spec(fit: Fit, size: int = 96) -> InputSpec:
    return InputSpec(
        size=size, resize=size, crop=size, fit=fit, mean=(0.2, 0.4, 0.8), std=(0.5, 0.5, 0.5)
    )


def test_crops_of_whole_pictures_keep_their_edges_in_sight() -> None:
    """The share of crops from which a mark is gone that fills a tenth of the width at an edge."""
    images = torch.empty(20_000, 3, 224, 224, device="meta")
    gone = {}
    for fit in FITS:
        generator = torch.Generator().manual_seed(0)
        scale = (smallest_crop(fit), 1.0)
        boxes = draw_boxes(images, scale, (3 / 4, 4 / 3), generator=generator)
        gone[fit] = float((boxes.left >= 22).float().mean())
        if fit == "letterbox":  # a picture of 8:1 is a strip of 28 rows: each crop shows all of it
            assert bool(((boxes.top <= 98) & (boxes.top + boxes.height >= 126)).all())
    assert gone["crop"] == pytest.approx(0.58, abs=0.02)
    assert gone["letterbox"] == gone["stretch"] == pytest.approx(0.07, abs=0.02)


def test_the_recipe_says_how_far_crops_go(make_plan, tiny_data) -> None:  # type: ignore[no-untyped-def]
    for fit, named, expected in (
        ("crop", 0.0, CROP_SCALE[0]),
        ("letterbox", 0.0, 0.8),
        ("stretch", 0.3, 0.3),
        ("crop", 1.0, 1.0),
    ):
        plan = make_plan(fit=fit, crop_scale=named)
        plan = msgspec.structs.replace(plan, input=spec(fit))
        augmentation = build_augmentation(plan, device=torch.device("cpu"))
        assert (augmentation.crop, augmentation.crop_scale) == ("resized", expected)
    changes = {"crop": "resized", "crop_scale": 1.0, "flip": False}
    whole = Augmentation(input=spec("stretch"), device=torch.device("cpu"), **changes)  # type: ignore[arg-type]
    images = torch.randint(256, (5, 96, 96, 3), dtype=torch.uint8)
    labels = torch.zeros(5, dtype=torch.int64)
    pixels, _ = whole.augment(images, labels, 2, torch.Generator().manual_seed(0))
    back = pixels.permute(0, 2, 3, 1) * 0.5 + torch.tensor([0.2, 0.4, 0.8])
    assert torch.allclose(back * 255, images.float(), atol=1e-2)


def test_letterboxed_images_are_padded_with_the_colour_of_their_bars() -> None:
    images = torch.randint(256, (8, 6, 6, 3), dtype=torch.uint8)
    fill = torch.tensor([51, 102, 204], dtype=torch.uint8)
    corner = torch.zeros((2, 8), dtype=torch.int64)
    flipped = torch.zeros(8, dtype=torch.bool)
    found = padded_crop(images, corner, flipped, padding=2, fill=fill)
    assert torch.equal(found[:, 2:, 2:], images[:, :4, :4])
    assert (found[:, :2] == fill).all()
    assert (found[:, :, :2] == fill).all()
    cpu = torch.device("cpu")
    fills = {fit: Augmentation(input=spec(fit), device=cpu).fill for fit in FITS}
    assert fills["crop"] is fills["stretch"] is None
    assert fills["letterbox"] is not None
    assert torch.equal(fills["letterbox"], fill)


def test_an_unknown_fit_is_refused_with_the_ones_that_there_are(
    tiny_options: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "squeeze.yaml"
    file.write_text("\n".join(f"{key}: {value}" for key, value in QUICK.items()) + "\nfit: squeeze")
    with pytest.raises(UserError) as refused:
        run.main([*tiny_options, "--recipe", str(file)])
    words = "fit: received 'squeeze', expected one of crop, letterbox, stretch"
    assert str(refused.value) == f"{file}: {words}"
    for command in (run, check_data):
        with pytest.raises(UserError, match="--fit: invalid choice: 'squeeze'") as refused:
            command.main([*tiny_options, "--fit", "squeeze"])
        assert all(fit in str(refused.value) for fit in FITS)
        assert "\n" not in str(refused.value)


def test_another_fit_does_not_go_on_with_a_run(
    tiny_options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*tiny_options, "--epochs", "1", "--out", "run"]
    assert run.main(words) == 0
    with pytest.raises(UserError, match=r"run \(recipe fit: crop, now letterbox\); repeat"):
        run.main([*words, "--resume", "--fit", "letterbox"])
    # A run of an older version states no fit, and goes on as one that crops.
    assert run.main([*words, "--resume", "--fit", "crop"]) == 0


def test_recipes_without_the_key_crop() -> None:
    recipe = recipe_from_values(QUICK, source="test")
    assert (recipe.fit, recipe.crop_scale) == ("crop", 0.0)
