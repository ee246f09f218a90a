"""Layouts as people have them: which folders are splits, which are classes, what is left out."""

import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime.base.errors import ImageError, UserError
from runtime.model.preprocess import preprocess
from training.data import Dataset, load_dataset
from training.data.folders import folder_source
from training.data.split_words import Role, role_of
from training.data.splits import held_out

Fill = Callable[..., Path]


@pytest.fixture
def fill(tmp_path: Path) -> Fill:
    """`fill("train/cat", "test/cat", images=2)`: every image has a colour of its own."""
    colours = iter(range(1, 250))

    def write(*folders: str, images: int = 2, root: str = "pets") -> Path:
        for folder in folders:
            (tmp_path / root / folder).mkdir(parents=True, exist_ok=True)
            for number in range(images):
                colour = next(colours)
                file = tmp_path / root / folder / f"{number}.bmp"
                Image.new("RGB", (20, 20), (colour, 7 * colour % 256, 40)).save(file)
                os.utime(file, ns=(10**18, 10**18))
        return tmp_path / root

    return write


def load(root: Path, **options: Any) -> Dataset:
    return load_dataset(str(root), **{"image_size": 32, **options})


def seen(dataset: Dataset, root: Path) -> dict[str, set[tuple[str, str]]]:
    """For each split: the class of each image, and the file's path, recognised by its pixels."""
    files: dict[bytes, str] = {}
    for parent, _, names in os.walk(root, followlinks=False):
        for name in names:
            if name.endswith(".bmp"):
                file = Path(parent, name)
                with suppress(ImageError):
                    files[preprocess(file, dataset.input).tobytes()] = str(file.relative_to(root))
    trained, validated = held_out(dataset, 0.0)
    found = {}
    for split, images, labels in (
        ("train", dataset.train_images[trained], dataset.train_labels[trained]),
        ("val", dataset.train_images[validated], dataset.train_labels[validated]),
        ("test", dataset.test_images, dataset.test_labels),
    ):
        pairs = [
            (dataset.class_names[label], files[image.tobytes()])
            for image, label in zip(images, labels, strict=True)
        ]
        assert len(set(pairs)) == len(pairs)
        found[split] = set(pairs)
    return found


def of(root: Path, folders: Iterable[str], *, images: int = 2) -> set[tuple[str, str]]:
    """What `seen` gives for all images of class folders that are named after their classes."""
    return {
        (Path(folder).name, f"{folder}/{number}.bmp")
        for folder in folders
        for number in range(images)
    }


def refusal(root: Path, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        load(root, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *[(name, Role.TRAIN) for name in ("train", "TRAIN", "training_set", "seg_train")],
        *[(name, Role.TRAIN) for name in ("Training", "train2017", "1. Train", "trainset")],
        *[(name, Role.TRAIN) for name in ("traindata", "TrainImages", "train-val", "my train")],
        *[(name, Role.VALIDATION) for name in ("val", "valid", "Validation Set", "dev", "val2017")],
        *[(name, Role.VALIDATION) for name in ("imagenet_val", "VALID", "devset", "seg-valid")],
        *[(name, Role.TEST) for name in ("Test", "test_set", "seg_test", "testing", "eval")],
        *[(name, Role.TEST) for name in ("test-images", "2_TEST", "hold-out", "testSet")],
        *[(name, Role.UNLABELLED) for name in ("pred", "seg_pred", "Predictions", "unlabeled")],
        *[(name, None) for name in ("cat", "trainer", "terrain", "contest", "valley", "devil")],
        *[(name, None) for name in ("latest", "evaluator", "train_test_split", "predator")],
    ],
)
def test_the_words_for_splits(name: str, role: Role | None) -> None:
    assert role_of(name) is role


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"),
        ("train", "valid"),
        ("training", "VAL"),
        ("train", "dev"),
        ("Train", "eval"),
        ("training_set", "test_set"),
        ("seg_train", "seg_test"),
        ("train2017", "val2017"),
        ("My Train", "hold-out"),
        ("train", "the rest"),  # one other folder, with the same folders in it
        ("images", "test"),
    ],
)
def test_folders_called_like_splits_are_splits(
    fill: Fill, capsys: pytest.CaptureFixture[str], train: str, test: str
) -> None:
    root = fill(f"{train}/cat", f"{train}/dog", f"{test}/cat", f"{test}/dog")
    dataset = load(root)
    assert dataset.class_names == ("cat", "dog")
    found = seen(dataset, root)
    assert found["train"] == of(root, [f"{train}/cat", f"{train}/dog"])
    assert found["test"] == of(root, [f"{test}/cat", f"{test}/dog"])
    assert not found["val"]
    assert f"{root}: {train}/ is trained on, {test}/ is tested on\n" in capsys.readouterr().out


@pytest.mark.parametrize("val", ["val", "valid", "Validation", "dev_set"])
def test_a_validation_folder_is_calibrated_with_and_never_trained_or_tested_on(
    fill: Fill, capsys: pytest.CaptureFixture[str], val: str
) -> None:
    splits = ("train", val, "test")
    root = fill(*(f"{split}/{name}" for split in splits for name in ("cat", "dog")))
    dataset = load(root)
    found = seen(dataset, root)
    for split, folder in zip(("train", "val", "test"), splits, strict=True):
        assert found[split] == of(root, [f"{folder}/cat", f"{folder}/dog"])
    said = f"train/ is trained on, {val}/ is calibrated with, test/ is tested on"
    assert said in capsys.readouterr().out
    # The fraction of a recipe does not matter where the user has drawn the split.
    assert len(held_out(dataset, 0.5)[1]) == 4
    assert load(root).validation_images == 4  # also from the cache


def test_the_validation_images_are_part_of_the_digest_and_the_cache(fill: Fill) -> None:
    root = fill(*(f"{split}/{name}" for split in ("train", "val", "test") for name in "ab"))
    first = load(root).digest()
    (root / "val" / "a" / "0.bmp").replace(root / "train" / "a" / "9.bmp")
    assert load(root).digest() != first
    (root / "val" / "a" / "1.bmp").unlink()
    assert load(root).validation_images == 2


def test_a_broken_validation_image_is_left_out(fill: Fill) -> None:
    root = fill(*(f"{split}/{name}" for split in ("train", "val", "test") for name in "ab"))
    (root / "val" / "a" / "0.bmp").write_text("no image")
    found = seen(load(root), root)
    assert found["val"] == {("a", "val/a/1.bmp"), *of(root, ["val/b"])}
    assert found["train"] == of(root, ["train/a", "train/b"])


@pytest.mark.parametrize("flat", ["test", "seg_pred", "test/images", "Test/unknown", "pred/pred"])
def test_images_without_labels_are_left_out_and_val_is_tested_on(
    fill: Fill, capsys: pytest.CaptureFixture[str], flat: str
) -> None:
    root = fill("train/cat", "train/dog", "val/cat", "val/dog", flat)
    data = load(root)
    found = seen(data, root)
    assert found["test"] == of(root, ["val/cat", "val/dog"])
    assert not found["val"]
    assert data.left_out == {"unlabelled": 2}
    out = capsys.readouterr().out
    assert f"{root}/{flat.split('/')[0]} is left out: " in out
    assert "labels" in out


def test_the_folders_of_a_known_download(fill: Fill, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = "seg_train/seg_train", "seg_test/seg_test"
    root = fill(
        *(f"{split}/{name}" for split in (train, test) for name in ("sea", "street")),
        "seg_pred/seg_pred",
    )
    found = seen(load(root), root)
    assert found["train"] == of(root, [f"{train}/sea", f"{train}/street"])
    assert found["test"] == of(root, [f"{test}/sea", f"{test}/street"])
    assert "seg_pred is left out" in capsys.readouterr().out


def test_a_training_split_alone_is_refused_with_the_way_on(fill: Fill) -> None:
    root = fill("train/cat", "train/dog", "test", images=5)
    message = refusal(root)
    assert "has train/ but neither test/ nor val/ with class folders" in message
    assert f"--data {root}/train" in message
    assert load(root / "train").class_names == ("cat", "dog")


def test_splits_without_one_to_train_on_are_no_classes(fill: Fill) -> None:
    root = fill("test/cat", "test/dog", "valid/cat", "valid/dog")
    assert "has test/, valid/ but no folder to train on" in refusal(root)


def test_two_folders_for_one_split_are_refused(fill: Fill) -> None:
    root = fill(*(f"{split}/{name}" for split in ("train_1", "train_2", "test") for name in "ab"))
    assert "has train_1/ and train_2/, expected one train/" in refusal(root)


def test_folders_beside_the_splits_are_named(
    fill: Fill, capsys: pytest.CaptureFixture[str]
) -> None:
    root = fill("Train/cat", "Train/dog", "Test/cat", "Test/dog", "screenshots/old")
    (root / "screenshots" / "again").symlink_to(root)  # it leads back, and is not counted
    data = load(root)
    assert data.class_names == ("cat", "dog")
    assert data.left_out == {"no split": 2}
    assert f"{root}/screenshots is left out: it is no split" in capsys.readouterr().out


def test_classes_that_are_called_like_splits_among_others(fill: Fill) -> None:
    root = fill("bus", "test_tube", "train station", "valley", images=5)
    assert load(root).class_names == ("bus", "test_tube", "train station", "valley")


@pytest.mark.parametrize("inner", ["dataset", "data/v2", "training_data", "archive.zip_FILES"])
@pytest.mark.parametrize("beside", ["__MACOSX/dataset", ".git", "README.txt", ""])
def test_one_folder_too_deep(
    fill: Fill, capsys: pytest.CaptureFixture[str], inner: str, beside: str
) -> None:
    root = fill(*(f"{inner}/{split}/{name}" for split in ("train", "test") for name in "ab"))
    if beside.endswith(".txt"):
        (root / beside).write_text("read me")
    elif beside:
        fill(beside)
    dataset = load(root)
    assert dataset.name == "pets"
    assert seen(dataset, root)["test"] == of(root, [f"{inner}/test/a", f"{inner}/test/b"])
    said = f"{root} holds nothing but {inner}/, which is read instead\n"
    assert capsys.readouterr().out.count(said) == 1


def test_class_folders_one_folder_too_deep(fill: Fill) -> None:
    root = fill("animals/cat", "animals/dog", images=5)
    assert load(root).class_names == ("cat", "dog")


def test_linked_folders_and_files_are_followed(fill: Fill, tmp_path: Path) -> None:
    root = fill("cat", "dog", images=5)
    pool = fill("more", "emu/chicks", images=5, root="pool")
    (root / "cat" / "more").symlink_to(pool / "more")
    (root / "emu").symlink_to(pool / "emu", target_is_directory=True)
    (root / "dog" / "linked.bmp").symlink_to(pool / "more" / "0.bmp")
    dataset = load(root)
    assert dataset.class_names == ("cat", "dog", "emu")
    labels = np.concatenate([dataset.train_labels, dataset.test_labels])
    assert np.bincount(labels).tolist() == [10, 6, 5]


def loop_to_itself(root: Path) -> None:
    (root / "cat" / "loop").symlink_to(root / "cat")


def loop_to_the_root(root: Path) -> None:
    (root / "cat" / "loop").symlink_to("..")


def loop_above_the_root(root: Path) -> None:
    (root / "cat" / "loop").symlink_to(root.parent)


def loop_further_down(root: Path) -> None:
    (root / "cat" / "below" / "more").mkdir(parents=True)
    (root / "cat" / "below" / "more" / "loop").symlink_to("..")


def same_folder_twice(root: Path) -> None:
    (root / "cat" / "kittens").mkdir()
    (root / "cat" / "young").symlink_to("kittens")


@pytest.mark.parametrize(
    "change",
    [loop_to_itself, loop_to_the_root, loop_above_the_root, loop_further_down, same_folder_twice],
)
def test_loops_and_folders_that_are_reached_twice_are_found(
    fill: Fill, capsys: pytest.CaptureFixture[str], change: Callable[[Path], None]
) -> None:
    root = fill("cat", "dog", images=5)
    change(root)
    dataset = load(root)
    assert len(dataset.train_labels) + len(dataset.test_labels) == 10
    assert "left out 1 linked folders that were read already, or would" in capsys.readouterr().out


@pytest.mark.parametrize(("first", "second"), [("cat", "dog"), ("train/cat", "test/cat")])
def test_one_folder_in_two_classes_or_splits_is_refused(
    fill: Fill, first: str, second: str
) -> None:
    root = fill("train/cat", "train/dog", "test/dog") if "/" in first else fill("cat", "emu")
    (root / second).symlink_to(root / first)
    message = refusal(root)
    assert f"{root / first} are one folder" in message or f"{root / second} are one" in message


def test_links_that_lead_nowhere_are_told(fill: Fill, capsys: pytest.CaptureFixture[str]) -> None:
    root = fill("cat", "dog", images=5)
    (root / "emu").symlink_to(root / "moved away")
    (root / "cat" / "itself").symlink_to("itself")
    assert load(root).class_names == ("cat", "dog")
    assert "left out 2 links that lead nowhere (cat/itself, emu)" in capsys.readouterr().out


SYSTEM_FOLDERS = (
    *("@eaDir", "__MACOSX", "lost+found", ".ipynb_checkpoints", ".thumbnails", "$RECYCLE.BIN"),
    *("#recycle", "System Volume Information", ".Trash-1000", "@Recycle", "__pycache__"),
)


@pytest.mark.parametrize("name", SYSTEM_FOLDERS)
@pytest.mark.parametrize("where", ["", "train", "train/cat", "test/dog"])
def test_what_systems_keep_is_no_image_and_no_class(fill: Fill, where: str, name: str) -> None:
    root = fill("train/cat", "train/dog", "test/cat", "test/dog")
    fill(f"{where}/{name}/0.bmp" if where else f"{name}/0.bmp")
    for file in ("._0.bmp", "Thumbs.db", "desktop.ini"):
        (root / where / file).write_text("of the system")
    dataset = load(root)
    assert dataset.class_names == ("cat", "dog")
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (4, 4)


def test_a_folder_of_the_system_is_not_listed(
    fill: Fill, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = fill("cat", "dog", "lost+found", images=5)
    forbid_listing(monkeypatch, root / "lost+found")
    assert load(root).class_names == ("cat", "dog")
    out = capsys.readouterr().out
    assert "left out 1 folders of the system (lost+found)" in out
    assert "ignored" not in out


def forbid_listing(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Permissions would not do: the super-user may list every folder."""
    real = os.scandir

    def scandir(path: Any) -> Any:
        if not isinstance(path, int) and Path(path) == folder:  # an int is an open folder
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


@pytest.mark.parametrize("folder", ["", "dog", "cat/kittens"])
def test_a_folder_that_cannot_be_listed_is_refused(
    fill: Fill, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    root = fill("cat", "dog", "cat/kittens", images=5)
    forbid_listing(monkeypatch, root / folder)
    assert f"{root / folder} cannot be listed (Permission denied); change" in refusal(root)


NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(
    ("first", "second", "shown"),
    [
        (NFC, NFD, (r"'caf\xe9'", r"'cafe\u0301'", "their Unicode form")),
        ("Cat", "cat", ("'Cat'", "'cat'", "case")),
        ("cat", "cat ", ("'cat'", "'cat '", "space")),
        (" Cat", "cat", ("' Cat'", "'cat'", "space")),
        ("cat", "cat\u00a0", ("'cat'", r"'cat\xa0'", "space")),
        ("cat", "cat\u200b", ("'cat'", r"'cat\u200b'", "space")),
        ("\u00c9cole", "e\u0301cole", (r"'\xc9cole'", r"'e\u0301cole'", "case")),
    ],
)
@pytest.mark.parametrize("layout", ["{}", "train/{}", "test/{}"])
def test_names_that_look_alike_are_refused(
    fill: Fill, layout: str, first: str, second: str, shown: tuple[str, ...]
) -> None:
    names = (first, second, "dog")
    root = fill(*map(layout.format, names))
    if layout != "{}":
        fill("train/dog", f"train/{first}", "test/dog")
    message = refusal(root)
    assert all(words in message for words in shown)


@pytest.mark.parametrize(("first", "second"), [("Cat", "cat"), ("cat ", "cat"), (NFC.upper(), NFD)])
def test_names_that_look_alike_in_two_splits_are_refused(
    fill: Fill, first: str, second: str
) -> None:
    root = fill("train/dog", f"train/{first}", "test/dog", f"test/{second}")
    assert "which differ only in" in refusal(root)


@pytest.mark.parametrize(("train", "val"), [(NFC, NFD), (NFD, NFC)])
def test_two_unicode_forms_in_two_splits_are_one_class(fill: Fill, train: str, val: str) -> None:
    root = fill("train/dog", f"train/{train}", "val/dog", f"val/{val}")
    dataset = load(root)
    assert dataset.class_names == (NFC, "dog")
    assert dataset.train_labels.tolist() == dataset.test_labels.tolist() == [0, 0, 1, 1]


def test_different_names_are_different_classes(fill: Fill) -> None:
    names = ("Masse", "Ma\u00dfe", "cafe", NFC, "m2", "m\u00b2")
    assert len(load(fill(*names)).class_names) == len(names)


@pytest.mark.parametrize("where", ["", "train", "test"])
def test_images_beside_the_class_folders_are_counted(
    fill: Fill, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    root = fill("train/cat", "train/dog", "test/cat", "test/dog") if where else fill("cat", "dog")
    fill(where or ".", images=3)
    dataset = load(root)
    assert dataset.class_names == ("cat", "dog")
    assert len(dataset.train_labels) + len(dataset.test_labels) == (8 if where else 4)
    said = f"{root / where}: 3 images beside the class folders left out"
    assert capsys.readouterr().out.count(said) == 1


@pytest.mark.parametrize(
    ("folders", "beside"),
    [
        (("train/cat", "train/dog", "test/cat", "test/dog"), "."),
        (("train/train/cat", "train/train/dog", "test/cat", "test/dog"), "train"),
        (("pets/cat", "pets/dog"), "."),
        (("a/b/train/cat", "a/b/train/dog", "a/b/val/cat", "a/b/val/dog"), "."),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_files_beside_folders_that_are_passed_are_counted(
    fill: Fill,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    folders: tuple[str, ...],
    beside: str,
    packed: bool,
) -> None:
    root = fill(*folders)
    fill(beside, images=3)
    (root / beside / "README.txt").write_text("read me")
    if packed:
        root = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", root))
    dataset = load(root)
    assert dataset.class_names == ("cat", "dog")
    assert len(dataset.train_labels) + len(dataset.test_labels) == 2 * len(folders)
    assert dataset.left_out == {"beside the class folders": 3, "not an image": 1}
    said = f"{root / beside}: 3 images beside the class folders left out"
    assert capsys.readouterr().out.count(said) == 1


@pytest.mark.parametrize("exists", [True, False])
def test_classes_without_test_images_are_told(
    fill: Fill, capsys: pytest.CaptureFixture[str], exists: bool
) -> None:
    root = fill("train/cat", "train/dog", "train/emu", "val/cat", "val/dog", "val/emu", "test/dog")
    if exists:
        fill("test/cat", "test/emu", images=0)
    dataset = load(root)
    assert dataset.class_names == ("cat", "dog", "emu")
    assert dataset.test_labels.tolist() == [1, 1]
    assert "pets: 2 classes (cat, emu) without test images\n" in capsys.readouterr().out


def test_classes_without_validation_images_are_told(
    fill: Fill, capsys: pytest.CaptureFixture[str]
) -> None:
    root = fill("train/cat", "train/dog", "val/cat", "test/cat", "test/dog")
    assert load(root).validation_images == 2
    assert f"{root}/val: 1 class (dog) without images there\n" in capsys.readouterr().out


def test_a_class_whose_test_images_are_all_broken_is_told(
    fill: Fill, capsys: pytest.CaptureFixture[str]
) -> None:
    root = fill("train/cat", "train/dog", "test/dog")
    fill("test/cat", images=1)
    (root / "test" / "cat" / "0.bmp").write_text("no image")
    assert load(root).test_labels.tolist() == [1, 1]
    assert "pets: 1 class (cat) without test images\n" in capsys.readouterr().out


def test_a_class_without_training_images_is_refused(fill: Fill) -> None:
    root = fill("train/cat", "train/dog", "test/cat", "test/dog", "test/emu")
    assert "class 'emu' is in" in refusal(root)
    (root / "train" / "emu").mkdir()
    assert "train/emu has no images" in refusal(root)


def test_of_several_classes_without_training_images_the_first_one_is_named(fill: Fill) -> None:
    strange = "abcdefghij"
    root = fill("train/x", "train/y", "test/x", *(f"test/{name}" for name in strange))
    assert "class 'a' is in" in refusal(root)
    rows = [f"{file.relative_to(root)},{file.parent.name}" for file in sorted(root.rglob("*.bmp"))]
    parts = [f"{row},{row.partition('/')[0]}" for row in rows]
    (root / "labels.csv").write_text("\n".join(["path,label,split", *parts]))
    with pytest.raises(UserError, match="class 'a' has images for test and none for training"):
        load(root / "labels.csv")


def test_classes_one_level_deeper_are_told(fill: Fill, capsys: pytest.CaptureFixture[str]) -> None:
    root = fill("animals/cat", "animals/dog", "plants/elm", "plants/oak", images=3)
    assert load(root).class_names == ("animals", "plants")
    out = capsys.readouterr().out
    assert "animals is one class, with the images of cat, dog; plants is one class" in out
    assert "--classes leaves" in out
    assert load(root, classes="leaves").class_names == ("cat", "dog", "elm", "oak")
    assert "--classes leaves" not in capsys.readouterr().out


def test_leaves_of_one_name_are_told_apart_by_their_paths(fill: Fill) -> None:
    leaves = ("fruit/apple/red", "fruit/pear", "cars/red", "cars")
    root = fill(*(f"{split}/{leaf}" for split in ("train", "test") for leaf in leaves))
    dataset = load(root, classes="leaves")
    assert dataset.class_names == ("cars", "cars/red", "fruit/apple/red", "pear")
    assert dataset.train_labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    files = {file for _, file in seen(dataset, root)["test"]}
    assert len(files) == 8


@pytest.mark.parametrize("data", ["digits", "cifar10"])
def test_leaves_are_for_folders(data: str) -> None:
    with pytest.raises(UserError, match="--classes is for folders of images"):
        load_dataset(data, classes="leaves")


@pytest.mark.parametrize(
    ("root", "folders", "images", "fingerprint", "digest"),
    [
        (
            "one",
            ("eel", "cat/kittens", "cat", "Dog"),
            5,
            "d51d8fa594d5388f5f408a916b60b129bb550f812deb08eae8b185193ae1c280",
            "62310627d536f8f68b4aa968c6adaf5426e0933b9fc4659a09b48e195da665c3",
        ),
        (
            "two",
            ("train/eel", "train/cat", "test/cat", "test/eel"),
            3,
            "b5d5c3c9e210931a9ea96c3292cf4401e8f05a036e0c458300147ba5c4c57e07",
            "51b3f16fe9c80ff062c8efd79b551a5ba4eb583498978d659f83698cf6ec968f",
        ),
        (
            "val",
            ("train/eel", "train/cat", "val/cat", "val/eel", "other/x"),
            3,
            "8c7e1361be114740a570dda5d773824da5b1f53c2c9fb52716d864fddfa46b1b",
            "51b3f16fe9c80ff062c8efd79b551a5ba4eb583498978d659f83698cf6ec968f",
        ),
    ],
)
def test_what_was_understood_before_is_the_same_data_still(
    fill: Fill, root: str, folders: tuple[str, ...], images: int, fingerprint: str, digest: str
) -> None:
    """Order, labels and split: runs and caches that exist already go on."""
    folder = fill(*folders, images=images, root=f"{root}/pets")
    assert folder_source(folder, split_seed=0).fingerprint == fingerprint
    assert load(folder).digest() == digest


@pytest.mark.parametrize("name", ["digits", "cifar10", "CIFAR10"])
def test_a_path_is_a_path_and_its_folder_never_poses_as_a_published_set(
    fill: Fill, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    root = fill("cat", "dog", images=5, root=name)
    monkeypatch.chdir(root.parent)
    for path in (f"./{name}", f"{name}/", str(root), f"../{root.parent.name}/{name}"):
        dataset = load_dataset(path, image_size=32)
        assert (dataset.name, dataset.class_names) == (f"{name}-folder", ("cat", "dog"))


def test_a_name_is_the_published_set_and_the_folder_beside_is_told(
    fill: Fill, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(fill("cat", "dog", root="digits").parent)
    assert load_dataset("digits").class_names == tuple("0123456789")
    assert "the folder here is ./digits" in capsys.readouterr().out


def test_arrays_do_not_pose_as_a_published_set_either(tmp_path: Path) -> None:
    folder = tmp_path / "cifar10"
    folder.mkdir()
    for split in ("train", "test"):
        np.save(folder / f"{split}_images.npy", np.zeros((4, 32, 32, 3), np.uint8))
        np.save(folder / f"{split}_labels.npy", np.array([0, 1, 0, 1]))
    assert load_dataset(str(folder)).name == "cifar10-folder"


def test_arrays_without_test_images_of_a_class_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, labels in (("train", [0, 1, 2, 0]), ("test", [0, 0, 2, 2])):
        np.save(tmp_path / f"{split}_images.npy", np.zeros((4, 32, 32, 3), np.uint8))
        np.save(tmp_path / f"{split}_labels.npy", np.array(labels))
    load_dataset(str(tmp_path))
    assert ": 1 class (1) without test images\n" in capsys.readouterr().out
