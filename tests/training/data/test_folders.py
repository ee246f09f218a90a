"""Folders of class folders: labels, splits, geometry, and what is refused."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.base.errors import UserError
from runtime.model.preprocess import preprocess
from training.data import Dataset, load_dataset
from training.data.folders import folder_source


def load(root: Path, **options: Any) -> Dataset:
    return load_dataset(str(root), progress=False, **options)


def members(dataset: Dataset, split: str, files: dict[Path, str]) -> set[tuple[str, str]]:
    """(class, file name) of every image of the split, recognised by its pixels."""
    known = {
        preprocess(file, dataset.input).tobytes(): (name, file.name) for file, name in files.items()
    }
    images, labels = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
    found = set()
    for image, label in zip(images, labels, strict=True):
        name, file = known[image.tobytes()]
        assert name == dataset.class_names[label]
        found.add((name, file))
    return found


def files_of(root: Path) -> dict[Path, str]:
    return {file: file.parent.name for file in sorted(root.rglob("*.png"))}


def test_one_folder_is_split_80_20_within_each_class(class_tree: Path) -> None:
    dataset = load(class_tree, image_size=32)
    files = files_of(class_tree)
    train, test = members(dataset, "train", files), members(dataset, "test", files)
    assert dataset.name == "pets"
    assert dataset.class_names == ("cat", "dog", "eel")
    assert sorted(name for name, _ in test) == ["cat", "dog", "eel"]
    assert not train & test
    assert len(train | test) == 15


def test_a_second_run_in_the_folder_of_the_pictures_has_the_data_of_the_first(
    class_tree: Path, write_image: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """`--data .` makes `runs/` among the class folders, with a picture of each run's curves."""
    monkeypatch.chdir(class_tree)
    first = load(Path(), image_size=32)
    for name in ("one", "two"):
        write_image(Path("runs") / name / "curves.png", seed=0)
        (Path("runs") / name / "checkpoint.pt").touch()
    (Path("runs") / "latest").symlink_to("one")
    second = load(Path(), image_size=32)
    assert second.class_names == first.class_names
    assert second.content_digest() == first.content_digest()
    assert "left out what training has written there (runs)" in capsys.readouterr().out


def test_the_split_is_the_seeds_and_does_not_depend_on_other_classes(class_tree: Path) -> None:
    files = files_of(class_tree)
    tests = [
        members(load(class_tree, image_size=32, split_seed=seed), "test", files)
        for seed in (0, 0, 1, 2)
    ]
    assert tests[0] == tests[1]
    assert len({frozenset(test) for test in tests}) > 1
    for file in (class_tree / "dog").iterdir():
        file.unlink()
    (class_tree / "dog").rmdir()
    fewer = members(load(class_tree, image_size=32), "test", files_of(class_tree))
    assert fewer == {member for member in tests[0] if member[0] != "dog"}


def test_a_path_that_is_too_long_is_one_line() -> None:
    with pytest.raises(UserError, match="File name too long; expected a folder, a list"):
        load_dataset("x" * 400)


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_train_and_test_folders_are_used_as_they_are(
    tmp_path: Path, write_image: Any, held_out: str
) -> None:
    for number in range(6):
        split, name = ("train" if number < 4 else held_out), "ab"[number % 2]
        write_image(tmp_path / "set" / split / name / f"{number}.png", seed=number)
    dataset = load(tmp_path / "set", image_size=32)
    files = files_of(tmp_path / "set")
    assert members(dataset, "train", files) == {
        ("a", "0.png"),
        ("b", "1.png"),
        ("a", "2.png"),
        ("b", "3.png"),
    }
    assert members(dataset, "test", files) == {("a", "4.png"), ("b", "5.png")}


def test_photographs_are_stored_at_eight_sevenths_and_tested_through_preprocess(
    class_tree: Path,
) -> None:
    dataset = load(class_tree)
    assert (dataset.input.size, dataset.input.resize, dataset.input.crop) == (224, 256, 224)
    assert dataset.train_images.shape == (12, 256, 256, 3)
    assert len(members(dataset, "test", files_of(class_tree))) == 3


def test_a_stored_training_image_holds_the_test_geometry(class_tree: Path) -> None:
    """Its centre is what evaluation would see of the same file."""
    dataset = load(class_tree)
    centres = dataset.train_images[:, 16:240, 16:240]
    wanted = {
        file: preprocess(file, dataset.input).astype(int) for file in files_of(class_tree)
    }.values()
    for centre in centres:
        assert min(np.abs(centre - image).max() for image in wanted) <= 1


def test_small_sizes_use_the_whole_square(class_tree: Path) -> None:
    dataset = load(class_tree, image_size=64)
    assert dataset.input.resize == dataset.input.crop == 64
    assert dataset.train_images.shape == (12, 64, 64, 3)


def test_deeper_folders_hidden_files_and_foreign_files(
    class_tree: Path, write_image: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(class_tree / "cat" / "kittens" / "new.PNG", seed=99)
    write_image(class_tree / "cat" / ".hidden.png", seed=98)
    write_image(class_tree / ".thumbnails" / "x.png", seed=97)
    (class_tree / "cat" / "notes.txt").write_text("tabby")
    dataset = load(class_tree, image_size=32)
    assert len(dataset.train_labels) + len(dataset.test_labels) == 16
    assert "1 files ignored" in capsys.readouterr().out


@pytest.mark.parametrize("split", ["", "train", "test"])
def test_a_folder_called_like_a_class_in_that_of_another_one_is_a_warning(
    class_tree: Path, write_image: Any, split: str
) -> None:
    root = class_tree
    if split:
        root = class_tree.with_name("whole")
        for name in ("train", "test"):
            shutil.copytree(class_tree, root / name)
    cats = root / split / "cat"
    write_image(cats / "cat" / "own.png", seed=97)
    assert folder_source(root, split_seed=0).warnings == ()
    write_image(cats / "old" / "dog" / "1.png", seed=98)
    write_image(cats / "old" / "dog" / "2.png", seed=99)
    warning, *others = folder_source(root, split_seed=0).warnings
    assert "images count for that: cat/old/dog (2 images); move them" in warning
    assert len(others) == (split == "")  # where the split is drawn, also that of sub-folders
    if split == "train":  # where they are classes, all need images for training
        assert folder_source(root, split_seed=0, classes="leaves").warnings == ()


def test_file_names_in_another_encoding(
    class_tree: Path, write_image: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    latin = class_tree / "cat" / os.fsdecode(b"\xe9t\xe9.png")
    write_image(class_tree / "cat" / "5.png").rename(latin)
    dataset = load(class_tree, image_size=32)
    assert len(dataset.train_labels) + len(dataset.test_labels) == 16
    latin.write_text("no image")
    dataset = load(class_tree, image_size=32)
    assert len(dataset.train_labels) + len(dataset.test_labels) == 15
    assert r"\udce9t\udce9.png" in capsys.readouterr().out
    (class_tree / "dog").rename(class_tree / os.fsdecode(b"\xe9t\xe9"))
    with pytest.raises(UserError, match="is named in another encoding than UTF-8"):
        load(class_tree, image_size=32)


def test_a_class_that_is_called_train(class_tree: Path) -> None:
    (class_tree / "eel").rename(class_tree / "train")
    assert load(class_tree, image_size=32).class_names == ("cat", "dog", "train")


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_bad_folders_are_refused_in_one_line(
    tmp_path: Path, class_tree: Path, write_image: Any
) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path / "nowhere")
    assert "nowhere" in one_line(error)
    assert "digits" in one_line(error)

    with pytest.raises(UserError) as error:
        load(Path("~no-such-user/pets"))
    assert "data '~no-such-user/pets': Could not determine home" in one_line(error)

    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as error:
        load(tmp_path / "empty")
    assert "has no class folders" in one_line(error)

    (class_tree / "fox").mkdir()
    with pytest.raises(UserError) as error:
        load(class_tree)
    assert "fox has no images" in one_line(error)

    write_image(class_tree / "fox" / "only.png")
    with pytest.raises(UserError) as error:
        load(class_tree)
    assert "fox has one image" in one_line(error)

    write_image(tmp_path / "single" / "cat" / "1.png", seed=1)
    write_image(tmp_path / "single" / "cat" / "2.png", seed=2)
    with pytest.raises(UserError) as error:
        load(tmp_path / "single")
    assert "at least two" in one_line(error)

    write_image(tmp_path / "halves" / "train" / "cat" / "1.png")
    with pytest.raises(UserError) as error:
        load(tmp_path / "halves")
    assert "neither test/ nor val/" in one_line(error)

    write_image(tmp_path / "halves" / "test" / "dog" / "1.png")
    with pytest.raises(UserError) as error:
        load(tmp_path / "halves")
    assert "expected it in both" in one_line(error)


def test_a_data_root_is_refused_where_it_means_nothing(class_tree: Path, tmp_path: Path) -> None:
    for data in ("digits", str(class_tree)):
        with pytest.raises(UserError, match="leave it out"):
            load_dataset(data, data_root=tmp_path)


def test_an_empty_class_folder_beside_those_of_train_is_left_out(
    tmp_path: Path, write_image: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "set"
    for number in range(8):
        split = ("train", "val")[number // 4]
        write_image(root / split / "ab"[number % 2] / f"{number}.png", seed=number)
    (root / "val" / "c").mkdir()
    assert load_dataset(str(root), image_size=32).class_names == ("a", "b")
    assert f"{root}/val/c is left out: it has no images" in capsys.readouterr().out
