"""Folders below class folders: the check of the data says what they may be, and what follows."""

import zipfile
from pathlib import Path
from typing import Any

import pytest

from training import check_data
from training.data import Dataset, load_dataset


def load(path: Path, **options: Any) -> Dataset:
    return load_dataset(str(path), image_size=16, **options)


def fill(root: Path, write_image: Any, *folders: str, images: int = 6) -> Path:
    """Writes as many images into each folder; all are different."""
    for place, folder in enumerate(folders):
        for number in range(images):
            write_image(root / folder / f"{number}.png", seed=20 * place + number)
    return root


PATIENTS = ("cat/p1", "cat/p2", "dog/p3", "dog/p4")


def test_images_of_one_sub_folder_on_both_sides(
    tmp_path: Path, write_image: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    root = fill(tmp_path / "scans", write_image, *PATIENTS)
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        for file in root.rglob("*.png"):
            archive.write(file, file.relative_to(root))
    for path in (root, tmp_path / "scans.zip"):
        data = load(path)
        sides = [
            {Path(name).parent.as_posix() for name in paths}
            for paths in (data.train_paths, data.test_paths)
        ]
        both = sorted(sides[0] & sides[1])
        (warning,) = data.warnings
        assert f"trained on and tested on ({', '.join(both[:3])}" in warning
        assert "--columns image=COLUMN,label=COLUMN,group=COLUMN (docs/training.md" in warning
    capsys.readouterr()
    assert check_data.main([str(root), "--json", "--image-size", "16"]) == 0
    assert "images of one sub-folder are trained on" in capsys.readouterr().out


def test_leaves_are_classes_and_not_told(tmp_path: Path, write_image: Any) -> None:
    root = fill(tmp_path / "pets", write_image, *PATIENTS)
    assert load(root, classes="leaves").warnings == ()


def test_a_split_of_the_user_is_not_told(tmp_path: Path, write_image: Any) -> None:
    places = [f"{split}/{folder}" for split in ("train", "test") for folder in PATIENTS]
    assert load(fill(tmp_path / "pets", write_image, *places)).warnings == ()


def test_folders_that_only_hold_the_images_of_a_class_are_not_told(
    tmp_path: Path, write_image: Any
) -> None:
    root = fill(tmp_path / "pets", write_image, "cat/images", "dog/images")
    assert load(root).warnings == ()


@pytest.mark.parametrize("split", ["", "train/"])
def test_sub_folders_that_look_like_the_classes(
    tmp_path: Path, write_image: Any, split: str, capsys: pytest.CaptureFixture[str]
) -> None:
    years = [f"{split}{year}/{name}" for year in ("2021", "2022") for name in ("a", "b")]
    root = fill(tmp_path / "years", write_image, *years)
    if split:
        fill(root, write_image, "test/2021", "test/2022")
    *_, warning = load(root).warnings
    assert warning.startswith(
        "the classes are 2021, 2022, and each has the same sub-folders (a, b), which look like the"
    )
    assert "--classes leaves" not in capsys.readouterr().out  # it would make four classes
    write_image(root / split / "2022" / "c" / "1.png", seed=99)
    assert not any("same sub-folders" in warning for warning in load(root).warnings)
