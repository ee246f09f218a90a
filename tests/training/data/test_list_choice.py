"""Which of the lists beside images are read: one that is meant and cannot be read is an error."""

import os
import zipfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from runtime.base.errors import UserError
from training.data import Dataset, load_dataset

NAMES = ("ant", "bee")
SIZES = {"train": 12, "val": 4, "test": 4}
Change = Callable[[str], bytes]


def load(path: Path, **options: Any) -> Dataset:
    return load_dataset(str(path), image_size=16, progress=True, **options)


def text_of(split: str) -> str:
    first = {"train": 0, "val": 12, "test": 16}[split]
    numbers = range(first, first + SIZES[split])
    return "\n".join(["image,label", *(f"im/{n}.png,{NAMES[n % 2]}" for n in numbers), ""])


@pytest.fixture
def zoo(tmp_path: Path, write_image: Any) -> Path:
    """Twenty images in one folder, with a list for each split beside it."""
    for number in range(20):
        write_image(tmp_path / "zoo" / "im" / f"{number}.png", seed=number)
    for split in SIZES:
        (tmp_path / "zoo" / f"{split}.csv").write_text(text_of(split))
    return tmp_path / "zoo"


FAULTS: dict[str, tuple[Change, str]] = {
    "latin-1": (
        lambda text: text.replace("bee", "käfer").encode("latin-1"),
        "is not UTF-8 text",
    ),
    "a cell too many": (lambda text: (text + "im/1.png,bee,x\n").encode(), "3 cells, and the head"),
    "a quote left open": (lambda text: (text + 'im/1.png,"bee').encode(), "not readable as a"),
    "another label column": (
        lambda text: text.replace("label", "animal").encode(),
        "has no column whose name says that it holds the label; found 'image', 'animal'",
    ),
    "no header": (lambda text: text.partition("\n")[2].encode(), "holds the image or the label"),
    "images absent": (lambda text: text.replace("im/", "im/x").encode(), "images are missing"),
    "empty": (lambda text: b"image,label\n", "has no rows"),
}


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_list_of_a_split_is_an_error(zoo: Path, fault: str, split: str) -> None:
    change, message = FAULTS[fault]
    file = zoo / f"{split}.csv"
    file.write_bytes(change(text_of(split)))
    with pytest.raises(UserError, match=message) as caught:
        load(zoo)
    assert str(caught.value).startswith(str(file))


def test_a_bad_list_in_the_folder_of_a_split_is_an_error(tmp_path: Path, write_image: Any) -> None:
    for split in ("train", "test"):
        rows = []
        for number in range(6):
            write_image(tmp_path / "hub" / split / f"{number}.png", seed=number)
            rows.append(f"{number}.png,{NAMES[number % 2]},é")
        text = "\n".join(["file_name,label,text", *rows])
        coding = "latin-1" if split == "train" else "utf-8"
        (tmp_path / "hub" / split / "metadata.csv").write_text(text, encoding=coding)
    with pytest.raises(UserError, match=r"train/metadata\.csv is not UTF-8 text"):
        load(tmp_path / "hub")


def test_a_list_to_test_on_is_not_trained_on(zoo: Path) -> None:
    (zoo / "train.csv").unlink()
    (zoo / "val.csv").unlink()
    with pytest.raises(UserError, match=r"list test.csv, whose name says test, and none to train"):
        load(zoo)
    assert len(load(zoo / "test.csv").test_labels) == 2  # who names it, means it


def test_a_list_that_is_no_table_is_not_replaced_by_the_names_of_folders(zoo: Path) -> None:
    for split in SIZES:
        (zoo / f"{split}.csv").unlink()
    (zoo / "labels.csv").write_bytes(text_of("train").replace("bee", "käfer").encode("latin-1"))
    (zoo / "other.csv").write_text("date,who\n1,me\n")
    with pytest.raises(UserError, match=r"labels\.csv is not UTF-8 text"):
        load(zoo)
    (zoo / "other.csv").write_text(text_of("train"))
    with pytest.raises(UserError, match=r"labels\.csv is not UTF-8 text"):
        load(zoo)


def test_lists_that_are_left_out_are_named(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (zoo / "test.csv").write_text("image\nim/16.png\n")
    (zoo / "sample_submission.csv").write_text("image,label\nim/16.png,ant\n")
    (zoo / "training_log.csv").write_text("epoch,loss\n1,2\n")
    (zoo / "notes.csv").write_text("date,who\n1,me\n")
    (zoo / "latin.csv").write_bytes(b"\xe9")
    data = load(zoo)
    assert (len(data.train_labels), len(data.test_labels)) == (12, 4)
    said = capsys.readouterr().out
    assert "test.csv is left out: it has no column for the classes" in said
    assert "sample_submission.csv is left out: its name says that its images have no" in said
    assert "training_log.csv is left out: " in said
    assert f"latin.csv is left out: {zoo / 'latin.csv'} is not UTF-8" in said
    assert "notes.csv" not in said


def test_a_bad_list_beside_class_folders_does_not_matter(
    class_tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (class_tree / "train.csv").write_bytes(b"\xe9")
    assert load(class_tree).class_names == ("cat", "dog", "eel")
    assert "its class folders are read, and not train.csv" in capsys.readouterr().out


def test_images_of_all_lists_together_are_what_is_listed(zoo: Path, write_image: Any) -> None:
    write_image(zoo / "im" / "odd.png", seed=40)
    assert load(zoo).left_out == {"not in the list": 1}


def test_one_image_with_two_classes_in_two_lists(zoo: Path) -> None:
    (zoo / "test.csv").write_text(text_of("test") + "im/0.png,bee\n")
    with pytest.raises(UserError, match=r"'im/0.png' has two classes, .* and 'ant' in line 2") as e:
        load(zoo)
    assert f"'bee' in {zoo / 'test.csv'}, line 6" in str(e.value)
    (zoo / "test.csv").write_text(text_of("test") + "im/0.png,ant\n")
    data = load(zoo)  # a leak, which the check of the data finds
    assert "im/0.png" in {*data.test_paths} & {*data.train_paths}


def test_a_row_without_class_and_image_in_an_archive(zoo: Path) -> None:
    text = text_of("train") + "im/gone.png,\n"
    with zipfile.ZipFile(zoo.parent / "zoo.zip", "w") as archive:
        archive.writestr("labels.csv", text)
        for file in (zoo / "im").iterdir():
            archive.write(file, f"im/{file.name}")
    assert load(zoo.parent / "zoo.zip").left_out == {"unlabelled": 1, "not in the list": 8}


@pytest.mark.parametrize("length", [400, 5000])
def test_a_cell_that_is_too_long_for_a_path_is_a_missing_image(
    class_tree: Path, zoo: Path, length: int
) -> None:
    row = f"{'x' * length},cat\n"
    (class_tree / "notes.csv").write_text(f"image,label\n{row}")
    assert load(class_tree).class_names == ("cat", "dog", "eel")
    (zoo / "train.csv").write_text(text_of("train") + row)
    assert load(zoo).left_out == {"missing": 1}


def test_numbered_class_folders_win_and_other_folders_are_counted(
    tmp_path: Path, write_image: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for folders in (("0", "1"), ("photos", "drawings/old")):
        root = tmp_path / folders[0]
        for number in range(16):
            write_image(root / folders[number // 8] / f"{number}.png", seed=number)
        rows = [f"{folders[0]}/{number}.png,{NAMES[number % 2]}" for number in range(8)]
        (root / "labels.csv").write_text("\n".join(["image,label", *rows]))
    assert load(tmp_path / "0").class_names == ("0", "1")
    assert "its class folders are read, and not labels.csv" in capsys.readouterr().out
    data = load(tmp_path / "photos")  # `photos` may as well just hold the images of the list
    assert data.class_names == NAMES
    assert data.left_out == {"not in the list": 8}
    assert "8 images beside the listed ones in no row" in capsys.readouterr().out
    assert load(tmp_path / "photos" / "labels.csv").left_out == {}


def test_class_folders_that_win_over_other_classes_of_a_list_are_a_warning(
    tmp_path: Path, write_image: Any
) -> None:
    """As HAM10000 has them: two folders with parts of the images, and one list of all."""
    root = tmp_path / "ham"
    folders = ("part_1", "part_2")
    for number in range(16):
        write_image(root / folders[number // 8] / f"{number}.png", seed=number)
    rows = [f"{number},{NAMES[number % 2]}" for number in range(16)]
    (root / "meta.csv").write_text("\n".join(["image_id,dx", *rows]))
    with zipfile.ZipFile(tmp_path / "ham.zip", "w") as archive:
        for file in root.rglob("*.*"):
            archive.write(file, file.relative_to(root))
    for data in (load(root), load(tmp_path / "ham.zip")):
        assert data.class_names == folders
        (warning,) = data.warnings
        assert warning.startswith("classes are folders, and not those that meta.csv names; ")
    for path in (root, tmp_path / "ham.zip"):
        data = load(path, columns="image=image_id,label=dx")
        assert data.class_names == NAMES
        assert len(data.train_labels) + len(data.test_labels) == 16
        assert data.left_out == {}
    rows = [f"{number},{folders[number // 8]}" for number in range(16)]
    (root / "meta.csv").write_text("\n".join(["image_id,dx", *rows]))
    assert load(root).warnings == ()  # the list says what the folders say
    (root / "part_2" / "15.png").rename(root / "part_2" / "3.png")
    with pytest.raises(UserError, match="image '3' is in part_1 and part_2; write the folder"):
        load(root, columns="image=image_id,label=dx")
    (root / "part_2" / "3.png").rename(root / "part_2" / "15.png")
    rows = [f"{folders[number // 8]}/{number},{NAMES[number % 2]}" for number in range(16)]
    (root / "meta.csv").write_text("\n".join(["image_id,dx", *rows]))
    assert load(root, columns="image=image_id,label=dx").class_names == NAMES


def test_tables_of_another_kind_do_not_stop_a_list_of_all(
    zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keras' CSVLogger writes `training.csv`, and detectors have `train_boxes.csv`."""
    rows = [text_of(split).partition("\n")[2] for split in SIZES]
    for split in SIZES:
        (zoo / f"{split}.csv").unlink()
    (zoo / "training.csv").write_text("epoch,loss\n1,2.3\n")
    (zoo / "train_boxes.csv").write_text("image,xmin\nim/0.png,3\n")
    with pytest.raises(UserError, match=r"train.*\.csv has no column whose name says that it"):
        load(zoo)
    (zoo / "labels.csv").write_text("image,label\n" + "".join(rows))
    data = load(zoo)
    assert len(data.train_labels) + len(data.test_labels) == 20
    said = capsys.readouterr().out
    for name in ("training.csv", "train_boxes.csv"):
        assert f"{name} is left out: " in said
    (zoo / "train.csv").write_text("image,verdict\nim/1.png,bee\n")  # it is surely meant
    with pytest.raises(UserError, match=r"train.csv has no column .* holds the label"):
        load(zoo)
    (zoo / "train.csv").write_bytes(b"image,label\nim/1.png,b\xe9e\n")
    with pytest.raises(UserError, match=r"is not UTF-8 text.*; or name the list .* --data FILE"):
        load(zoo)


def test_rows_without_a_class_tell_of_no_folder(tmp_path: Path, write_image: Any) -> None:
    """A row of an image that is not there, in a folder that is not there; and an empty one."""
    rows = ["image,label,note"]
    for number in range(16):
        write_image(tmp_path / "zoo" / "im" / f"{number}.png", seed=number)
        rows.append(f"im/{number}.png,{NAMES[number % 2]},")
    write_image(tmp_path / "zoo" / "stray.png", seed=16)  # beside the list, not beside its images
    file = tmp_path / "zoo" / "labels.csv"
    file.write_text("\n".join([*rows, "unseen/99.png,,", ",,hello"]))
    assert load(file).left_out == {"unlabelled": 2}


def test_the_form_of_a_submission_does_not_name_classes(tmp_path: Path, write_image: Any) -> None:
    for part, (split, name) in enumerate(product(("train", "val"), NAMES)):
        for number in range(8):
            write_image(tmp_path / split / name / f"{number}.png", seed=10 * part + number)
    for number in range(4):
        write_image(tmp_path / "test" / f"{100 + number}.png", seed=100 + number)
    rows = [f"{100 + number},ant" for number in range(4)]
    (tmp_path / "sampleSubmission.csv").write_text("\n".join(["id,label", *rows]))
    data = load(tmp_path)
    assert data.class_names == NAMES
    assert [warning for warning in data.warnings if "sampleSubmission" in warning] == []


@pytest.mark.parametrize("beside", [False, True])
def test_a_folder_with_few_of_the_images_is_found(
    tmp_path: Path,
    write_image: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    beside: bool,
) -> None:
    """The rows that are tried tell of the folder with most images only, and of no other one."""
    rows = []
    for number in range(300):
        first = "." if beside else "a"
        folder = "c" if number in (7, 8, 9, 10, 11) else first
        write_image(tmp_path / folder / f"{number}.png", width=8, height=8, seed=number)
        rows.append(f"{number}.png,{NAMES[number % 2]}")
    for number in (1, 3):  # none of the fifty rows that are tried
        write_image(tmp_path / "masks" / f"{number}.png", width=8, height=8, seed=number)
    write_image(tmp_path / "private" / ".hidden.png", width=8, height=8, seed=1)
    (tmp_path / "list.csv").write_text("\n".join(["image,label", *rows]))
    data = load(tmp_path / "list.csv")
    assert len(data.train_labels) + len(data.test_labels) == 300
    assert "missing" not in data.left_out
    assert "c/" in capsys.readouterr().out
    (tmp_path / ("." if beside else "a") / "3.png").unlink()
    listed = os.scandir

    def forbid(path: Any) -> Any:
        if beside and str(path).endswith("private"):  # else the folders are looked for the images
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", forbid)
    data = load(tmp_path / "list.csv")  # the mask of an image does not take its place
    assert data.left_out["missing"] == 1


@pytest.mark.parametrize(
    ("folders", "text", "why"),
    [
        (("part_1", "part_2"), "image,label\n1.JPG,ant\n2.JPG,bee\n", "none of its images is"),
        (("images", "masks"), "1.png,ant\n2.png,bee\n", "holds the image or the label; found"),
        (("images", "masks"), "image,ant,bee\n1.png,1,0\n", "holds the label; found 'image', 'an"),
    ],
)
def test_a_list_that_names_no_image_and_folders_instead_are_a_warning(
    tmp_path: Path, write_image: Any, folders: tuple[str, ...], text: str, why: str
) -> None:
    root = tmp_path / "zoo"
    for number in range(16):
        write_image(root / folders[number // 8] / f"{number % 8}.png", seed=number)
    (root / "labels.csv").write_text(text)
    data = load(root)
    assert data.class_names == folders
    (warning,) = data.warnings
    assert warning.startswith("classes are folders, and not those that labels.csv may name, which")
    assert why in warning
    (root / "labels.csv").rename(root / "losses.csv")
    (root / "losses.csv").write_text("epoch,loss\n1,2\n")
    assert load(root).warnings == ()
