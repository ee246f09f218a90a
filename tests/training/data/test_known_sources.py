"""The index of shards, tables and archives is not read again where nothing has changed."""

import os
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.data import Dataset, block_checksums, forms, known_sources, load, load_dataset


def read(path: Path, **options: Any) -> Dataset:
    return load_dataset(str(path), image_size=32, **options)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The paths whose data are read from now on."""
    paths: list[Path] = []

    def counted(path: Path, request: forms.Request) -> Any:
        paths.append(path)
        return forms.open_source(path, request)

    monkeypatch.setattr(load, "open_source", counted)
    return paths


@pytest.fixture
def shards(tmp_path: Path, write_image: Callable[..., Path]) -> Path:
    folder = tmp_path / "shards"
    for shard in range(2):
        write_shard(folder / f"{shard}.tar", shard, write_image)
    return folder


def write_shard(file: Path, shard: int, write_image: Callable[..., Path]) -> None:
    file.parent.mkdir(exist_ok=True)
    beside = file.parent.parent
    with tarfile.open(file, "w") as archive:
        for number in range(8):
            name = f"{shard}{number}"
            archive.add(write_image(beside / "one.png", seed=9 * shard + number), f"{name}.png")
            (beside / "one.cls").write_text("ab"[number % 2])
            archive.add(beside / "one.cls", f"{name}.cls")
    wait_until_old()


def test_what_was_warned_of_is_kept(
    tmp_path: Path, write_image: Callable[..., Path], reads: list[Path]
) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for split, count in (("train", 8), ("test", 4)):
        with tarfile.open(folder / f"{split}.tar", "w") as archive:
            for number in range(count):
                seed = len(split) * 10 + number
                archive.add(write_image(tmp_path / "one.png", seed=seed), f"{number}.png")
                fields = f'{{"label": "{"ab"[number % 2]}", "patient": {number}}}'
                (tmp_path / "one.json").write_text(fields)
                archive.add(tmp_path / "one.json", f"{number}.json")
    wait_until_old()
    warned = [read(folder, allow_leaks=True).warnings for _ in range(2)]
    assert warned == [("4 groups have images in several splits (0, 2, 1, ...)",)] * 2
    assert reads == [folder]


def wait_until_old() -> None:
    time.sleep(1.2 * known_sources._OLD_ENOUGH_NS / 1e9)


def same(first: Dataset, second: Dataset) -> bool:
    return (
        np.array_equal(first.train_images, second.train_images)
        and np.array_equal(first.test_labels, second.test_labels)
        and (first.train_paths, first.left_out) == (second.train_paths, second.left_out)
        and (first.name, first.class_names) == (second.name, second.class_names)
    )


def test_a_second_start_reads_no_index_and_says_the_same(
    shards: Path, reads: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first = read(shards)
    said = capsys.readouterr().out.splitlines()
    assert same(read(shards), first)
    assert reads == [shards]
    again = capsys.readouterr().out.splitlines()
    assert again == [line for line in said if "decoding" not in line]
    assert any("WebDataset" in line for line in again)


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_an_archive_of_class_folders(class_tree: Path, form: str, reads: list[Path]) -> None:
    archive = Path(shutil.make_archive(str(class_tree), form, class_tree))
    wait_until_old()
    assert same(read(archive), read(archive))
    assert len(reads) == 1


def test_a_folder_of_images_is_read_each_time(class_tree: Path, reads: list[Path]) -> None:
    wait_until_old()
    assert same(read(class_tree), read(class_tree))
    assert len(reads) == 2


def test_what_is_asked_is_part_of_it(shards: Path, reads: list[Path]) -> None:
    read(shards)
    for options in ({"split_seed": 1}, {"progress": False}, {"allow_leaks": True}):
        read(shards, **options)
    assert len(reads) == 4
    read(shards, refresh=True)
    assert len(reads) == 5


@pytest.mark.parametrize(
    "change", ["new shard", "other shard", "one less", "new list", "same time"]
)
def test_any_change_is_seen(
    shards: Path, reads: list[Path], change: str, write_image: Callable[..., Path]
) -> None:
    read(shards)
    state = (shards / "1.tar").stat()
    if change == "new shard":
        write_shard(shards / "2.tar", 2, write_image)
    elif change in ("other shard", "same time"):
        write_shard(shards / "1.tar", 3, write_image)
    elif change == "one less":
        (shards / "1.tar").unlink()
    else:
        (shards / "deeper").mkdir()
    if change == "same time":
        os.utime(shards / "1.tar", ns=(state.st_atime_ns, state.st_mtime_ns))
    read(shards)
    assert len(reads) == 2


def test_data_that_have_just_been_written_are_read_again(shards: Path, reads: list[Path]) -> None:
    """A change within the clock's tick could not be seen."""
    os.utime(shards / "1.tar")
    read(shards)
    read(shards)
    assert len(reads) == 2


def test_a_lost_entry_is_decoded_again(shards: Path, reads: list[Path], cache: Path) -> None:
    first = read(shards)
    first_images = np.array(first.train_images)
    shutil.rmtree(cache / "arrays")
    assert np.array_equal(read(shards).train_images, first_images)
    assert len(reads) == 2


def test_an_entry_that_nobody_wrote_to_is_checked_in_part(
    shards: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_checksums, "_BLOCK_BYTES", 1000)
    monkeypatch.setattr(block_checksums, "_MAX_UNCHANGED_BYTES", 4000)
    blocks: list[int] = []
    real = block_checksums._checksum
    monkeypatch.setattr(
        block_checksums, "_checksum", lambda file, at: (blocks.append(at), real(file, at))[1]
    )
    counts = []
    for _ in range(3):
        blocks.clear()
        read(shards)
        counts.append(len(blocks))
    _, whole, part = counts
    assert part < whole / 3
    (entry,) = (path for path in (cache / "arrays").iterdir() if path.is_dir())
    (entry / "train_images.npy").touch()
    blocks.clear()
    read(shards)
    assert len(blocks) == whole
