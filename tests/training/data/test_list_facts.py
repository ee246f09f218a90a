"""Lists beside class folders that state groups or a split are never left out without a choice."""

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from runtime.base.errors import UserError
from training import check_data
from training.data import Dataset, load_dataset

Row = tuple[str, str, str, str]  # image, class, patient, split


def load(path: Path, **options: Any) -> Dataset:
    return load_dataset(str(path), image_size=16, **options)


@pytest.fixture
def rows(tmp_path: Path, write_image: Any) -> list[Row]:
    """Twelve images of each class in `scans`, four of each patient; the last patient is tested."""
    found = []
    for label, name in enumerate(("benign", "malignant")):
        for number in range(12):
            write_image(tmp_path / "scans" / name / f"{number}.png", seed=20 * label + number)
            patient = f"{name[0]}{number // 4}"
            split = "train" if number < 8 else "test"
            found.append((f"{name}/{number}.png", name, patient, split))
    return found


def listed(head: str, rows: list[Row], *places: int) -> str:
    return "\n".join([head, *(",".join(row[place] for place in places) for row in rows)])


def packed(root: Path) -> Path:
    return Path(shutil.make_archive(str(root), "zip", root))


@pytest.mark.parametrize(
    ("head", "places", "stated", "option"),
    [
        (
            "image,label,patient_id",
            (0, 1, 2),
            "groups in column 'patient_id'",
            "image=image,label=label,group=patient_id",
        ),
        (
            "file,dx,subset",
            (0, 1, 3),
            "a split in column 'subset'",
            "image=file,label=dx,split=subset",
        ),
        (
            "image,label,split,patient",
            (0, 1, 3, 2),
            "groups in column 'patient' and a split in column 'split'",
            "image=image,label=label,split=split,group=patient",
        ),
        (  # a column that is called like that of the split, and is none
            "image,label,dataset,patient",
            (0, 1, 1, 2),
            "groups in column 'patient'",
            "image=image,label=label,split=,group=patient",
        ),
    ],
)
def test_the_option_that_is_named_reads_the_list(
    tmp_path: Path, rows: list[Row], head: str, places: tuple[int, ...], stated: str, option: str
) -> None:
    root = tmp_path / "scans"
    (root / "metadata.csv").write_text(listed(head, rows, *places))
    for path in (root, packed(root)):
        with pytest.raises(UserError) as caught:
            load(path)
        assert str(caught.value) == (
            f"{path / 'metadata.csv'} states {stated}, and the class folders beside it do not; "
            f"give --columns {option} to read it; to read the folders alone, take the file away"
            + (", or give a folder of links to them" if path == root else "")
        )
        data = load(path, columns=option)
        patient = {row[0]: row[2] for row in rows}
        sides = [{patient[name] for name in paths} for paths in (data.train_paths, data.test_paths)]
        assert not sides[0] & sides[1]
        assert load(path, of_a_run=True).train_groups is None  # a run has chosen the folders
    (root / "metadata.csv").unlink()
    assert load(root).class_names == ("benign", "malignant")


def said_of(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(path)
    return str(caught.value)


def option_in(message: str) -> str:
    """What the message says behind `--columns`."""
    *_, words = message.partition("--columns ")
    return shlex.split(words.replace(";", " "))[0]


@pytest.mark.parametrize("others", [False, True])
def test_a_list_without_classes(
    tmp_path: Path, rows: list[Row], write_image: Any, others: bool
) -> None:
    root = tmp_path / "scans"
    (root / "people.csv").write_text(listed("image,patient_id", rows, 0, 2))
    if others:  # images to be predicted, which lie in no class folder
        write_image(root / "t0.png", seed=50)
        (root / "test.csv").write_text("image\nt0.png")
    said = said_of(root)
    assert "give it a column for the classes, called label, and --columns" in said
    (root / "people.csv").write_text(listed("image,patient_id,label", rows, 0, 2, 1))
    assert load(root, columns=option_in(said)).train_groups is not None


@pytest.mark.parametrize("name", ["test.csv", "Valid.csv"])
@pytest.mark.parametrize(
    ("head", "places"), [("file,label", (0, 1)), ("file,patient", (0, 2)), ("file,dx", (0, 1))]
)
def test_a_list_of_images_that_are_held_out_alone(
    tmp_path: Path, rows: list[Row], name: str, head: str, places: tuple[int, ...]
) -> None:
    root = tmp_path / "scans"
    parts = [[row for row in rows if row[3] == split] for split in ("train", "test")]
    (root / name).write_text(listed(head, parts[1], *places))
    said = said_of(root)
    without = "patient" in head
    assert ("give it a column for the classes, called label, and add a list" in said) == without
    assert "add a list to train on with the same columns, such as train.csv, and give" in said
    with pytest.raises(UserError):  # without that list it cannot be read
        load(root, columns=option_in(said))
    if without:
        head, places = f"{head},label", (*places, 1)
    for file, part in zip(("train.csv", name), parts, strict=True):
        (root / file).write_text(listed(head, part, *places))
    whole = load(root, columns=option_in(said))
    assert {*whole.test_paths} == {row[0] for row in parts[1]}


@pytest.mark.parametrize("name", ["test", "val"])
def test_folders_for_the_splits_take_the_place_of_a_list(
    tmp_path: Path, rows: list[Row], name: str
) -> None:
    root = tmp_path / "scans"
    part = [row for row in rows if row[3] == "test"]
    (root / f"{name}.csv").write_text(listed("image,label", part, 0, 1))
    assert f"or put the images into folders called train and {name}; to read" in said_of(root)
    for row in rows:
        new = root / (name if row in part else "train") / row[0]
        new.parent.mkdir(parents=True, exist_ok=True)
        (root / row[0]).rename(new)
    for label in ("benign", "malignant"):
        (root / label).rmdir()
    assert {*load(root).test_paths} == {f"{name}/{row[0]}" for row in part}


def test_folders_are_read_alone_where_files_cannot_be_taken_away(
    tmp_path: Path, rows: list[Row]
) -> None:
    root = tmp_path / "scans"
    (root / "test.csv").write_text(listed("image,label", rows[8:12], 0, 1))
    assert "to read the folders alone, take the file away, or give a folder of l" in said_of(root)
    assert said_of(packed(root)).endswith("to read the folders alone, take the file away")
    links = tmp_path / "links"
    links.mkdir()
    for label in ("benign", "malignant"):
        (links / label).symlink_to(root / label)
    assert len(load(links).train_paths) == 20


def test_several_lists_that_are_not_one_for_each_split(tmp_path: Path, rows: list[Row]) -> None:
    root = tmp_path / "my scans"
    (tmp_path / "scans").rename(root)
    head, places = "image,label,patient id", (0, 1, 2)
    for name in ("a", "b"):
        (root / f"{name}.csv").write_text(listed(head, rows, *places))
    for path in (root, packed(root)):
        said = said_of(path)
        assert "put one list of all images in place of the lists, with a column for the c" in said
        assert "take the files away" in said
        assert ("--data" in said) == (path == root)
    words = shlex.split(said_of(root).partition("such as --data ")[2].replace(";", " "))
    assert load(Path(words[0]), columns=words[2]).train_groups is not None
    for name in ("a", "b"):
        (root / f"{name}.csv").unlink()
    (root / "all.csv").write_text(listed(head, rows, *places))
    assert load(root, columns=option_in(said_of(root))).train_groups is not None


def test_two_lists_of_images_that_are_held_out(tmp_path: Path, rows: list[Row]) -> None:
    root = tmp_path / "scans"
    for name, part in (("test", rows[:4]), ("test_2", rows[12:16])):
        (root / f"{name}.csv").write_text(listed("image,label", part, 0, 1))
    assert "called label, and one for the split, called split; to read" in said_of(root)
    for name in ("test", "test_2"):
        (root / f"{name}.csv").unlink()
    (root / "all.csv").write_text(listed("image,label,split", rows, 0, 1, 3))
    assert len(load(root, columns=option_in(said_of(root))).test_paths) == 8


@pytest.mark.parametrize("more", ["", ",patient"])
def test_lists_for_splits_whose_columns_have_other_names(
    tmp_path: Path, rows: list[Row], more: str
) -> None:
    root = tmp_path / "scans"
    for split, head in (("train", "file,dx"), ("test", "image,label")):
        part = [row for row in rows if row[3] == split]
        places = (0, 1, 2) if more and split == "train" else (0, 1)
        (root / f"{split}.csv").write_text(
            listed(head + more if split == "train" else head, part, *places)
        )
    data = load(root, columns=option_in(said_of(root)))
    assert {*data.test_paths} == {row[0] for row in rows if row[3] == "test"}
    assert (data.train_groups is not None) == bool(more)


def test_a_list_for_a_split_without_classes(tmp_path: Path, rows: list[Row]) -> None:
    root = tmp_path / "scans"
    parts = [[row for row in rows if row[3] == split] for split in ("train", "test")]
    (root / "train.csv").write_text(listed("image,label", parts[0], 0, 1))
    (root / "test.csv").write_text(listed("image", parts[1], 0))
    said = said_of(root)
    assert "give it a column for the classes, called label, and --columns" in said
    (root / "test.csv").write_text(listed("image,label", parts[1], 0, 1))
    assert {*load(root, columns=option_in(said)).test_paths} == {row[0] for row in parts[1]}


def test_a_list_for_each_split(tmp_path: Path, rows: list[Row]) -> None:
    root = tmp_path / "scans"
    for split in ("train", "test"):
        part = [row for row in rows if row[3] == split]
        (root / f"{split}.csv").write_text(listed("image,label", part, 0, 1))
    with pytest.raises(UserError, match=r"test.csv states a split by its name, and the class"):
        load(root)
    data = load(root, columns="image=image,label=label")
    assert {*data.test_paths} == {row[0] for row in rows if row[3] == "test"}
    (root / "test.csv").unlink()
    assert load(root).train_groups is None  # one list to train on leaves the draw to us, too


@pytest.mark.parametrize(
    ("head", "places"),
    [
        ("image,label,individual", (0, 1, 0)),  # each image is a group of its own
        ("image,label,usage", (0, 1, 1)),  # no word for a split
        ("image,label", (0, 1)),
        ("image,size", (0, 2)),
    ],
)
def test_lists_that_state_no_more_than_the_folders(
    tmp_path: Path, rows: list[Row], head: str, places: tuple[int, ...]
) -> None:
    (tmp_path / "scans" / "metadata.csv").write_text(listed(head, rows, *places))
    data = load(tmp_path / "scans")
    assert (data.class_names, data.warnings) == (("benign", "malignant"), ())


def test_lists_of_other_images_do_not_matter(
    tmp_path: Path, rows: list[Row], write_image: Any
) -> None:
    """`test.csv` names images without classes, which lie in no class folder."""
    root = tmp_path / "scans"
    others = [(f"t{number}.png", "", f"t{number // 2}", "") for number in range(4)]
    for number, row in enumerate(others):
        write_image(root / row[0], seed=50 + number)
    (root / "test.csv").write_text(listed("image,patient_id", others, 0, 2))
    assert load(root).left_out["beside the class folders"] == 4


def test_folders_that_state_the_split_are_what_is_meant(tmp_path: Path, rows: list[Row]) -> None:
    root = tmp_path / "scans"
    moved = []
    for name, label, patient, split in rows:
        (root / split / label).mkdir(parents=True, exist_ok=True)
        (root / name).rename(root / split / name)
        moved.append((f"{split}/{name}", label, patient, split))
    for name in ("benign", "malignant"):
        (root / name).rmdir()
    (root / "metadata.csv").write_text(listed("image,label,split", moved, 0, 1, 3))
    assert {*load(root).test_paths} == {row[0] for row in moved if row[3] == "test"}


def test_the_check_of_the_data_refuses_it(
    tmp_path: Path, rows: list[Row], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "scans"
    (root / "metadata.csv").write_text(listed("image,label,patient", rows, 0, 1, 2))
    with pytest.raises(UserError, match="states groups in column 'patient'"):
        check_data.main([str(root), "--json"])
    assert capsys.readouterr().out == ""
