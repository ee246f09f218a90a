"""The same images as folder, list, parquet, shards, tar and zip are the same data set."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.data import Dataset, load_dataset

CLASSES = ("10", "2", "cat")  # in the order of text
Files = dict[str, bytes]


def load(path: Path | str, **options: Any) -> Dataset:
    return load_dataset(str(path), image_size=32, progress=True, **options)


@pytest.fixture
def tree(tmp_path: Path, write_image: Any) -> Path:
    """Three classes in one folder, with deeper folders."""
    root = tmp_path / "pets"
    for label, name in enumerate(CLASSES):
        for number in range(11):
            below = "deep/" if number % 4 == 3 else ""
            write_image(root / name / f"{below}{number}.png", seed=20 * label + number)
    return root


def files_of(root: Path) -> Files:
    """The images by their paths, in an order of no meaning."""
    paths = sorted(root.rglob("*.png"), key=lambda path: path.read_bytes())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def label_of(path: str) -> str:
    return next(part for part in path.split("/") if part in CLASSES)


def write_csv(files: Files, root: Path, folder: Path) -> Path:
    lines = ["file,label", *(f"{path},{label_of(path)}" for path in files)]
    file = root / "list.csv"
    file.write_text("\n".join(lines))
    return file


def write_jsonl(files: Files, root: Path, folder: Path) -> Path:
    rows = [{"label": label_of(path), "file_name": str(root / path)} for path in files]
    file = folder / "list.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


def write_zip(files: Files, root: Path, folder: Path) -> Path:
    with zipfile.ZipFile(folder / "pets.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return folder / "pets.zip"


def write_zip_with_list(files: Files, root: Path, folder: Path) -> Path:
    with zipfile.ZipFile(folder / "pets.zip", "w", zipfile.ZIP_STORED) as archive:
        lines = ["image;class", *(f"{path};{label_of(path)}" for path in files)]
        archive.writestr("pets/labels.csv", "\r\n".join(lines))
        for path, content in files.items():
            archive.writestr(f"pets/{path}", content)
    return folder / "pets.zip"


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def write_tar(files: Files, root: Path, folder: Path) -> Path:
    with tarfile.open(folder / "pets.tar", "w") as archive:
        for path, content in files.items():
            add(archive, path, content)
    return folder / "pets.tar"


def write_shards(files: Files, root: Path, folder: Path) -> Path:
    """Two shards, with the class in each of the three ways."""
    shards = folder / "shards"
    shards.mkdir()
    for number in range(2):
        with tarfile.open(shards / f"pets-{number:03}.tar", "w") as archive:
            for index, (path, content) in enumerate([*files.items()][number::2]):
                name, label = path.removesuffix(".png"), label_of(path)
                add(archive, path, content)
                kind = ("cls", "txt", "json")[index % 3]
                text = json.dumps({"label": label}) if kind == "json" else f"{label}\n"
                add(archive, f"{name}.{kind}", text.encode())
    return shards / "pets-{000..001}.tar"


def write_parquet(files: Files, root: Path, folder: Path) -> Path:
    """Two files as `datasets` writes them, with several row groups and other numbers of classes."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    names = ["cat", "2", "10"]
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": names},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    (folder / "hub" / "data").mkdir(parents=True)
    for number in range(2):
        some = [*files.items()][number::2]
        image = pa.array([{"bytes": content, "path": path} for path, content in some])
        label = pa.array([names.index(label_of(path)) for path, _ in some], pa.int64())
        table = pa.table({"image": image, "label": label}).replace_schema_metadata(metadata)
        pyarrow.parquet.write_table(
            table, folder / "hub" / "data" / f"pets-{number:05}-of-00002.parquet", row_group_size=5
        )
    return folder / "hub"


FORMS: dict[str, Callable[[Files, Path, Path], Path]] = {
    "csv": write_csv,
    "jsonl, absolute paths": write_jsonl,
    "zip": write_zip,
    "zip with a list": write_zip_with_list,
    "tar": write_tar,
    "shards": write_shards,
    "parquet": write_parquet,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_data(tree: Path, tmp_path: Path, form: str) -> None:
    wanted = load(tree)
    other = FORMS[form](files_of(tree), tree, tmp_path)
    columns = "image=image,label=class" if form == "zip with a list" else ""
    found = load(other, columns=columns)
    assert found.class_names == CLASSES
    assert found.digest() == wanted.digest()
    assert found.content_digest() == wanted.content_digest()
    for split in ("train", "test"):
        for what in ("images", "labels"):
            name = f"{split}_{what}"
            assert np.array_equal(getattr(found, name), getattr(wanted, name))
        paths = [path.removeprefix("pets/") for path in getattr(found, f"{split}_paths")]
        assert tuple(paths) == getattr(wanted, f"{split}_paths")
    assert not found.left_out
    assert found.train_groups is None


@pytest.mark.parametrize("form", FORMS)
def test_copies_of_a_picture_go_to_one_side_in_every_form(
    tree: Path, tmp_path: Path, form: str
) -> None:
    for number in (0, 1, 2, 4, 5, 6):
        content = (tree / "cat" / f"{number}.png").read_bytes()
        (tree / "cat" / f"copy{number}.png").write_bytes(content)
    wanted = load(tree)
    columns = "image=image,label=class" if form == "zip with a list" else ""
    found = load(FORMS[form](files_of(tree), tree, tmp_path), columns=columns)
    train, test = (
        {row.tobytes() for row in images} for images in (wanted.train_images, wanted.test_images)
    )
    assert not train & test
    assert wanted.train_groups is not None
    assert np.array_equal(found.train_groups, wanted.train_groups)
    assert found.content_digest() == wanted.content_digest()
