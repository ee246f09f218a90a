"""The check of a data set, as a command and before a training, on data with planted faults."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scenes import scenes

from runtime.base.errors import UserError
from training import check_data, run
from training.data import decode, load_dataset
from training.data.data_check import checked_data
from training.records.checkpoint import load_trained
from training.records.run_data import load_run_dataset

CLASSES = ("cat", "dog", "emu")
COUNTS = {"train": 24, "valid": 4, "test": 40}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """204 different pictures of three classes, in three splits."""
    root = tmp_path_factory.mktemp("clean") / "pets"
    pictures = iter(scenes(3 * sum(COUNTS.values()), side=48))
    for split, count in COUNTS.items():
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(next(pictures)).save(root / split / name / f"{number:02}.png")
    return root


@pytest.fixture
def pets(clean: Path, here: Path) -> Path:
    return Path(shutil.copytree(clean, here / "pets"))


def change(root: Path, source: str, target: str, **options: int) -> None:
    """Writes one picture as another file, in the format of its suffix."""
    Image.open(root / source).save(root / target, **options)


@pytest.fixture
def leaky(pets: Path) -> Path:
    """Test: three exact copies of train and one of valid, two near ones. Valid: one of train."""
    for number, name in enumerate(CLASSES):
        change(pets, f"train/{name}/{number:02}.png", f"test/{name}/a copy.bmp")
    change(pets, "valid/cat/01.png", "test/cat/another.png", compress_level=1)
    change(pets, "train/dog/07.png", "test/dog/encoded.jpg", quality=60)
    mirrored = Image.open(pets / "train/emu/09.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mirrored.save(pets / "test/emu/mirrored.png")
    change(pets, "train/cat/05.png", "valid/cat/of train.bmp")
    return pets


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    capsys.readouterr()
    assert check_data.main([*arguments, "--json", "--image-size", "32"]) == 0
    answer = capsys.readouterr()
    assert len(answer.out.splitlines()) == 1
    assert not answer.err
    return json.loads(answer.out)


def test_data_without_faults_has_no_warning(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys, str(pets))
    assert [*found] == ["data", "classes", "used", "left_out", "duplicates", "warnings"]
    counts = {"train": 24, "validation": 4, "test": 40}
    assert found["classes"] == [{"name": name, **counts} for name in CLASSES]
    assert found["used"] == 204
    assert found["left_out"] == {}
    none = {"across_splits": 0, "near_across_splits": 0, "across_classes": 0}
    assert found["duplicates"] == none
    assert found["warnings"] == []


def test_duplicates_across_splits_are_counted_and_named(
    leaky: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = report(capsys, str(leaky), "--pairs", "pairs.csv")
    assert found["duplicates"] == {
        "across_splits": 4,
        "near_across_splits": 2,
        "across_classes": 0,
    }
    exact, near, validation = found["warnings"]
    assert exact.startswith("4 of 126 test images are also in train or validation")
    assert near.startswith("2 of 126 test images are near duplicates")
    assert validation.startswith("1 of 13 validation images is also in train")
    with Path("pairs.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    pairs = {(row["first"], row["second"]): row["kind"] for row in rows}
    assert pairs == {
        **{
            (f"train/{name}/{number:02}.png", f"test/{name}/a copy.bmp"): "exact"
            for number, name in enumerate(CLASSES)
        },
        ("valid/cat/01.png", "test/cat/another.png"): "exact",
        ("train/cat/05.png", "valid/cat/of train.bmp"): "exact",
        ("train/dog/07.png", "test/dog/encoded.jpg"): "near",
        ("train/emu/09.png", "test/emu/mirrored.png"): "near",
    }
    assert all(row["distance"] == "0.00" for row in rows if row["kind"] == "exact")
    assert any(row["distance"] > "0.00" for row in rows)


def test_pictures_in_several_classes_are_counted(
    pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(pets, "train/cat/03.png", "train/dog/also a cat.bmp")
    change(pets, "train/cat/04.png", "train/emu/also a cat.jpg", quality=80)
    found = report(capsys, str(pets))
    assert found["duplicates"]["across_classes"] == 2
    assert found["duplicates"]["across_splits"] == 0
    (warning,) = found["warnings"]
    assert "train/cat/03.png (cat) and train/dog/also a cat.bmp (dog)" in warning


def test_what_is_left_out_is_counted_by_reason(
    pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pets / "train" / "cat" / "notes.txt").write_text("no image")
    (pets / "train" / "cat" / "broken.png").write_bytes(
        (pets / "train" / "cat" / "00.png").read_bytes()[:2000]
    )
    found = report(capsys, str(pets))
    assert found["left_out"] == {"not an image": 1, "broken": 1}
    assert found["used"] == 204


def test_pictures_and_classes_that_spoil_a_training_are_told(
    pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2, 24):
        (pets / "train" / "emu" / f"{number:02}.png").unlink()
    for number in range(3):
        for split in ("train", "test"):
            plain = Image.new("RGB", (48, 48), (90, 40 + number, 40))
            plain.save(pets / split / "cat" / f"plain {number}.png")
    Image.open(pets / "train/dog/00.png").resize((12, 12)).save(pets / "train/dog/00.png")
    Image.open(pets / "train/dog/01.png").resize((160, 50)).save(pets / "train/dog/01.png")
    found = report(capsys, str(pets))
    assert found["duplicates"]["across_splits"] == 0
    few, balance, plain, tiny, long = found["warnings"]
    assert few == "1 class has fewer than 20 training images: emu (2)"
    assert balance.startswith("classes are out of balance, 14 to 1: cat has 27")
    assert plain.startswith("6 pictures are of one colour or nearly, and not counted as duplicates")
    assert tiny.startswith("1 picture is smaller than half of the input's 32 pixels: train/dog/00")
    assert long.startswith("1 picture is more than 3 times as long as wide")


def test_a_training_set_that_is_nearly_black_is_told(
    pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in pets.rglob("*.png"):  # as 12 bits look that were saved in 16
        Image.fromarray(np.asarray(Image.open(file)) // 16).save(file)
    (warning,) = report(capsys, str(pets))["warnings"]
    assert "nearly constant" in warning
    assert "84 of 84 training images" in warning


def test_the_text_shows_classes_counts_and_warnings(
    leaky: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_data.main([str(leaky), "--image-size", "32"]) == 0
    text = capsys.readouterr().out
    assert "  cat                24           5          42\n" in text
    assert "  together           72          13         126\n" in text
    assert "4 test images that are also in train or validation" in text
    assert text.count("  warning: ") == 3


def test_the_second_check_compares_nothing(
    leaky: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = report(capsys, str(leaky))

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("images are compared again")

    monkeypatch.setattr("training.data.inspection.fill_thumbnails", refuse)
    assert report(capsys, str(leaky)) == first


def test_what_was_kept_and_is_damaged_is_compared_again(
    leaky: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file names a compression that zipfile does not know: NotImplementedError."""
    first = report(capsys, str(leaky))
    (kept,) = (tmp_path / "cache").rglob("*.npz")
    content = bytearray(kept.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 10] = 99
    kept.write_bytes(content)
    assert report(capsys, str(leaky)) == first


def test_refresh_decodes_again(
    leaky: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = report(capsys, str(leaky))
    decoded: list[int] = []
    real = decode.decode_chunk

    def counted(chunk: decode.Chunk) -> decode.Decoded:
        decoded.append(len(chunk.images))
        return real(chunk)

    monkeypatch.setattr(decode, "decode_chunk", counted)
    assert report(capsys, str(leaky)) == first
    assert decoded == []
    assert report(capsys, str(leaky), "--refresh") == first
    assert sum(decoded) > 0


def test_data_that_cannot_be_used_are_a_users_mistake(here: Path) -> None:
    with pytest.raises(UserError, match="neither a known data set"):
        check_data.main(["no such place", "--json"])
    with pytest.raises(UserError, match="is no folder"):
        check_data.main(["digits", "--pairs", "no/folder/pairs.csv"])
    with pytest.raises(UserError, match="is a folder; expected a file, which may be new"):
        check_data.main(["no such place", "--pairs", "."])


# --- before a training ---


@pytest.fixture
def options(tiny_recipe_file: Path) -> list[str]:
    return [
        *("--arch", "mobilenetv2", "--width", "0.25", "--device", "cpu", "--image-size", "16"),
        *("--recipe", str(tiny_recipe_file), "--epochs", "1", "--out", "run", "--data"),
    ]


def test_leaks_of_the_users_splits_stop_a_training(leaky: Path, options: list[str]) -> None:
    with pytest.raises(UserError, match=r"4 of 126 test images \(3.2%\)") as caught:
        run.main([*options, str(leaky)])
    message = str(caught.value)
    assert "\n" not in message
    assert "--drop-leaks" in message
    assert "--allow-leaks" in message
    assert "out of train and validation" in message
    assert f"python training/check_data.py {leaky} --pairs" in message
    assert not Path("run").exists()


def test_a_leak_of_one_percent_and_near_duplicates_only_warn(
    pets: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    change(pets, "train/cat/00.png", "test/cat/copy.png", compress_level=1)  # 1 of 121
    for number in range(5):
        change(pets, f"train/dog/{number:02}.png", f"test/dog/{number:02}.jpg", quality=90)
        (pets / "test" / "dog" / f"{number:02}.png").unlink()
    dataset = load_dataset(str(pets), image_size=32, progress=False)
    check = checked_data(dataset, str(pets), drop="none", allow=False)
    check.say()
    told = capsys.readouterr().out
    assert "1 test images are also in train, 5 nearly" in told
    assert "warning: 5 of 121 test images are near duplicates" in told


def test_a_run_that_allows_leaks_keeps_what_it_was_told(
    leaky: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([*options, str(leaky), "--allow-leaks"]) == 0
    kept = json.loads(Path("run/data.json").read_bytes())
    assert kept == {**report(capsys, str(leaky), "--image-size", "16"), "data": "pets"}
    assert len(Path("run/duplicates.csv").read_text().splitlines()) == 1 + 7
    result = json.loads(Path("run/result.json").read_bytes())
    assert result["command"].count("--allow-leaks") == 1
    assert result["drop_leaks"] == "none"


@pytest.mark.parametrize(("drop", "train", "validation"), [("exact", 68, 12), ("near", 66, 12)])
def test_dropped_leaks_are_out_of_train_and_known_to_the_run(
    leaky: Path, options: list[str], drop: str, train: int, validation: int
) -> None:
    # Three copies of test images are in train, one of a validation image; one is in validation.
    words = ["--drop-leaks"] if drop == "exact" else ["--drop-leaks", drop]
    assert run.main([*options, str(leaky), *words]) == 0
    result = json.loads(Path("run/result.json").read_bytes())
    assert result["drop_leaks"] == drop
    assert result["command"].count(f"--drop-leaks {drop}") == 1
    assert (result["train_images"], result["validation_images"]) == (train, validation)
    assert result["test_images"] == 126
    kept = json.loads(Path("run/data.json").read_bytes())
    assert kept["left_out"] == {"duplicate": 72 + 13 - train - validation}
    assert kept["duplicates"]["across_splits"] == 0
    assert kept["duplicates"]["near_across_splits"] == (2 if drop == "exact" else 0)
    trained = load_trained(Path("run"))
    again = load_run_dataset(trained)
    assert again.content_digest() == trained.plan.content_digest
    whole = load_dataset(str(leaky), image_size=16, progress=False)
    assert whole.content_digest() != again.content_digest()
    dropped = set(whole.train_paths) - set(again.train_paths)
    assert {"train/cat/00.png", "train/cat/05.png", "valid/cat/01.png"} <= dropped
    assert ("train/emu/09.png" in dropped) == (drop == "near")
    rows = [whole.train_paths.index(path) for path in again.train_paths]
    assert np.array_equal(again.train_images, whole.train_images[rows])
    # The run goes on with the same words, and not without them.
    assert run.main([*options, str(leaky), *words, "--resume"]) == 0
    with pytest.raises(UserError, match="drop_leaks: "):
        run.main([*options, str(leaky), "--allow-leaks", "--resume"])


def test_a_class_is_never_dropped_whole(pets: Path) -> None:
    for number in range(24):
        change(pets, f"train/emu/{number:02}.png", f"test/emu/copy {number}.bmp")
    dataset = load_dataset(str(pets), image_size=16, progress=False)
    with pytest.raises(UserError, match="class 'emu' are also held out"):
        checked_data(dataset, str(pets), drop="exact", allow=False)


def test_a_validation_split_is_never_dropped_whole(pets: Path) -> None:
    """A run would hold out some of train in its place, and nobody would know."""
    shutil.rmtree(pets / "valid")
    for name in CLASSES:
        (pets / "valid" / name).mkdir(parents=True)
        shutil.copy(pets / "test" / name / "00.png", pets / "valid" / name)
    dataset = load_dataset(str(pets), image_size=16, progress=False)
    assert dataset.validation_images == 3
    for drop, says in (
        ("exact", "also in test, so that --drop-leaks would"),
        ("near", "also in test, or nearly, so that --drop-leaks near would"),
    ):
        with pytest.raises(UserError, match=f"all 3 validation images are {says} leave none"):
            checked_data(dataset, str(pets), drop=drop, allow=False)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"no picture", "no image that can be read: .*only.png"), (None, "split has no images")],
)
def test_a_validation_split_without_a_picture_is_refused(
    pets: Path, content: bytes | None, says: str
) -> None:
    shutil.rmtree(pets / "valid")
    (pets / "valid" / "cat").mkdir(parents=True)
    if content is not None:
        (pets / "valid" / "cat" / "only.png").write_bytes(content)
    with pytest.raises(UserError, match=says):
        load_dataset(str(pets), image_size=16, progress=False)


def test_a_published_set_is_told_and_never_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    dataset = load_dataset("digits", image_size=16)
    leaky_digits = dataset.train_images.copy()
    leaky_digits[:50] = dataset.test_images[:50]
    leaky = replace(dataset, train_images=leaky_digits)
    checked_data(leaky, "digits", drop="none", allow=False).say()
    assert "warning: 50 of 360 test images are also in train" in capsys.readouterr().out
    with pytest.raises(UserError, match="50 of 360"):
        checked_data(leaky, "./digits", drop="none", allow=False)
