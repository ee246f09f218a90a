"""Each image's path and digest: kept through the cache, through broken images and odd names."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.model.preprocess import preprocess
from training.data import Dataset, load_dataset
from training.data.dataset import row_digests
from training.data.row_files import packed_paths, unpacked_paths


def load(root: Path, **options: Any) -> Dataset:
    return load_dataset(str(root), **{"image_size": 32, "progress": False, **options})


def test_every_path_names_the_file_of_its_row(class_tree: Path) -> None:
    for dataset in (load(class_tree), load(class_tree)):  # decoded, then from the cache
        rows = [
            *zip(dataset.train_paths, dataset.train_images, dataset.train_labels, strict=True),
            *zip(dataset.test_paths, dataset.test_images, dataset.test_labels, strict=True),
        ]
        assert sorted(path for path, _, _ in rows) == [
            f"{name}/{number}.png" for name in ("cat", "dog", "eel") for number in range(5)
        ]
        for path, image, label in rows:
            assert np.array_equal(preprocess(class_tree / path, dataset.input), image), path
            assert path.startswith(dataset.class_names[label])


def test_every_digest_is_of_its_file(class_tree: Path) -> None:
    for dataset in (load(class_tree), load(class_tree, image_size=48)):
        for paths, digests in (
            (dataset.train_paths, dataset.train_sha256),
            (dataset.test_paths, dataset.test_sha256),
        ):
            assert digests is not None
            assert [row.tobytes() for row in digests] == [
                hashlib.sha256((class_tree / path).read_bytes()).digest() for path in paths
            ]


@pytest.mark.parametrize("size", [20, 32])
def test_every_digest_of_an_array_is_of_its_row(tmp_path: Path, size: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 20, 20, 3), dtype=np.uint8)
    for split in ("train", "test"):
        np.save(tmp_path / f"{split}_images.npy", images)
        np.save(tmp_path / f"{split}_labels.npy", np.arange(6) % 2)
    dataset = load(tmp_path, image_size=size)
    digests = dataset.test_sha256
    digests = row_digests(dataset.test_images) if digests is None else digests
    assert [row.tobytes() for row in digests] == [
        hashlib.sha256(image.tobytes()).digest() for image in images
    ]


def test_a_broken_image_takes_no_other_path_away(class_tree: Path) -> None:
    (class_tree / "dog" / "2.png").write_text("no picture")
    for dataset in (load(class_tree), load(class_tree)):
        paths = {*dataset.train_paths, *dataset.test_paths}
        assert len(paths) == 14
        assert "dog/2.png" not in paths
        assert dataset.left_out == {"broken": 1}
        for path, image in zip(dataset.train_paths, dataset.train_images, strict=True):
            assert np.array_equal(preprocess(class_tree / path, dataset.input), image), path


def test_validation_images_have_paths_behind_those_of_training(class_tree: Path) -> None:
    root = class_tree.parent / "split"
    for split in ("train", "val", "test"):
        shutil.copytree(class_tree, root / split)
    dataset = load(root)
    assert dataset.validation_images == 15
    assert {path.split("/")[0] for path in dataset.train_paths[:15]} == {"train"}
    assert {path.split("/")[0] for path in dataset.train_paths[15:]} == {"val"}
    assert {path.split("/")[0] for path in dataset.test_paths} == {"test"}


ODD_NAMES = [b"caf\xe9 1.png", b"two\nlines.png", "日本.png".encode(), b'quote"\\.png']


def test_names_that_are_no_text_come_back_byte_for_byte(class_tree: Path) -> None:
    for number, name in enumerate(ODD_NAMES):
        (class_tree / "cat" / f"{number}.png").rename(
            os.fsdecode(os.fsencode(class_tree / "cat") + b"/" + name)
        )
    load(class_tree)
    dataset = load(class_tree)
    paths = {os.fsencode(path) for path in (*dataset.train_paths, *dataset.test_paths)}
    assert {b"cat/" + name for name in ODD_NAMES} <= paths


@pytest.mark.parametrize("paths", [(), ("",), ("a/b", "", "c\udce9")])
def test_packed_paths_are_unpacked_alike(paths: tuple[str, ...]) -> None:
    assert unpacked_paths(packed_paths(paths)) == paths


def test_left_out_files_are_counted_by_reason(class_tree: Path) -> None:
    (class_tree / "cat" / "notes.txt").write_text("")
    (class_tree / "cat" / ".hidden.png").write_text("")
    (class_tree / "cat" / "Thumbs.db").write_text("")
    (class_tree / "cat" / "gone.png.lnk").symlink_to(class_tree / "nowhere")
    (class_tree / "cat" / "again").symlink_to(class_tree / "cat")
    shutil.copy(class_tree / "cat" / "0.png", class_tree / "beside.png")
    assert load(class_tree).left_out == {
        "not an image": 1,
        "hidden": 1,
        "system file or folder": 1,
        "link that leads nowhere": 1,
        "folder read already": 1,
        "beside the class folders": 1,
    }
    load(class_tree)


def test_rows_of_arrays_are_named(tmp_path: Path) -> None:
    root = tmp_path / "arrays"
    root.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (6, 20, 20, 3), dtype=np.uint8)
    for split, count in (("train", 6), ("test", 2)):
        np.save(root / f"{split}_images.npy", images[:count])
        np.save(root / f"{split}_labels.npy", np.arange(count) % 2)
    for size in (20, 32):  # mapped where they lie, and through the cache
        dataset = load(root, image_size=size)
        assert dataset.train_paths == tuple(f"train_images.npy#{row}" for row in range(6))
        assert dataset.test_paths == ("test_images.npy#0", "test_images.npy#1")


def test_a_digit_is_named_by_its_row_in_the_published_set() -> None:
    from sklearn import datasets

    digits = load_dataset("digits")
    published = datasets.load_digits()
    rows = [int(path.removeprefix("#")) for path in digits.test_paths]
    assert np.array_equal(published.target[rows], digits.test_labels)
    grey = np.rint(published.images[rows[0]] * 255 / 16).astype(np.uint8)[..., None]
    assert np.array_equal(
        preprocess(np.repeat(grey, 3, axis=2), digits.input), digits.test_images[0]
    )


# An entry as it was made before it kept paths: other files, and a record without a format.
OLD_FILES = ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy")


def make_old(entry: Path) -> None:
    record = json.loads((entry / "entry.json").read_text())
    record.pop("format")
    record["files"] = {name: record["files"][name] for name in OLD_FILES}
    (entry / "entry.json").write_text(json.dumps(record))
    for file in entry.iterdir():
        if file.name not in (*OLD_FILES, "entry.json"):
            file.unlink()


@pytest.mark.parametrize("under_its_key", [True, False])
def test_an_old_entry_is_made_again_with_a_line(
    class_tree: Path, cache: Path, under_its_key: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    first = load(class_tree)
    (entry,) = (cache / "arrays").glob("pets-*")
    make_old(entry)
    if not under_its_key:
        entry.rename(entry.with_name("pets-32-0123456789abcdef"))
    capsys.readouterr()
    second = load(class_tree)
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if "is of an older version" in line]) == 1
    assert second.train_paths == first.train_paths
    load(class_tree)
    assert "older version" not in capsys.readouterr().out


def test_one_changed_picture_changes_the_content_digest(
    class_tree: Path, write_image: Callable[..., Path]
) -> None:
    dataset = load(class_tree)
    digest = dataset.content_digest()
    assert digest == load(class_tree).content_digest()
    for change in (
        {"class_names": ("cat", "dog", "elk")},
        {"train_labels": np.roll(dataset.train_labels, 1)},
        {"validation_images": 3},
        {"train_sha256": np.roll(dataset.train_sha256, 1, axis=0)},
    ):
        assert Dataset(**{**vars(dataset), **change}).content_digest() != digest
    for path in (dataset.train_paths[3], dataset.test_paths[1]):
        kept = (class_tree / path).read_bytes()
        write_image(class_tree / path, seed=99)
        assert load(class_tree).content_digest() != digest
        (class_tree / path).write_bytes(kept)
    assert load(class_tree).content_digest() == digest


def test_one_changed_pixel_of_an_array_changes_the_content_digest(class_tree: Path) -> None:
    dataset = load(class_tree)
    parts = {"train_sha256": None, "test_sha256": None}
    digest = Dataset(**{**vars(dataset), **parts}).content_digest()
    for split in ("train", "test"):
        images = np.array(getattr(dataset, f"{split}_images"))
        images[2, 3, 4, 1] ^= 1
        changed = Dataset(**{**vars(dataset), **parts, f"{split}_images": images})
        assert changed.content_digest() != digest


def test_paths_are_read_in_a_locale_without_utf8(class_tree: Path) -> None:
    (class_tree / "cat" / "0.png").rename(class_tree / "cat" / "é.png")
    load(class_tree)
    code = (
        "import sys; from training.data import load_dataset;"
        "d = load_dataset(sys.argv[1], image_size=32, progress=False);"
        "print(ascii(sorted(d.train_paths + d.test_paths)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(class_tree)],
        # By itself Python would take UTF-8 for the locale C (PEP 538 and 540).
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "cat/\\xe9.png" in ended.stdout
