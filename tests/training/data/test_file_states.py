"""A file replaced at the same name, size and time is found; a copy decodes nothing again."""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime.model.preprocess import preprocess
from training.data import Dataset, decode, file_states, load_dataset


def load(root: Path, **options: Any) -> Dataset:
    return load_dataset(str(root), **{"image_size": 32, "progress": False, **options})


def plain(path: Path, level: int) -> bytes:
    """A BMP of one grey level: two of them have one size."""
    Image.new("RGB", (40, 30), (level, level, level)).save(path)
    return path.read_bytes()


def _rewritten(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _moved_over(path: Path, content: bytes) -> None:
    other = path.parent.parent / "other"
    other.write_bytes(content)
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


def _linked(path: Path, content: bytes) -> None:
    """The name becomes a link to another file."""
    other = path.parent.parent.parent / "other.bmp"
    other.write_bytes(content)
    path.unlink()
    path.symlink_to(other)


@pytest.fixture
def greys(class_tree: Path) -> Path:
    for name in ("cat", "dog"):
        for number in range(5):
            (class_tree / name / f"{number}.png").unlink()
            plain(class_tree / name / f"{number}.bmp", 10 + number)
    return class_tree


def image_of(dataset: Dataset, path: str) -> np.ndarray:
    if path in dataset.train_paths:
        return dataset.train_images[dataset.train_paths.index(path)]
    return dataset.test_images[dataset.test_paths.index(path)]


@pytest.mark.parametrize("replace", [_rewritten, _moved_over, _linked])
@pytest.mark.parametrize("number", range(5))
def test_a_replaced_file_of_the_same_name_size_and_time_is_decoded(
    greys: Path,
    tmp_path: Path,
    replace: Callable[[Path, bytes], None],
    number: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    load(greys)
    file = greys / "cat" / f"{number}.bmp"
    before = file.stat()
    replace(file, plain(tmp_path / "new.bmp", 200))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    capsys.readouterr()
    dataset = load(greys)
    assert f"{file} was replaced by another file of the same name" in capsys.readouterr().out
    assert (image_of(dataset, f"cat/{number}.bmp") == 200).all()
    load(greys)
    assert "was replaced" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["test_images", "train_labels"])
def test_a_replaced_array_is_resized_again(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "arrays"
    root.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (8, 20, 20, 3), dtype=np.uint8)
    for split in ("train", "test"):
        np.save(root / f"{split}_images.npy", images)
        np.save(root / f"{split}_labels.npy", np.arange(8) % 2)
    first = load(root)
    file = root / f"{kind}.npy"
    before = file.stat()
    np.save(file, 1 - np.load(file))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = load(root)
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        same = np.array_equal(getattr(first, name), getattr(second, name))
        assert same is (name != kind)


@pytest.mark.parametrize("content", [None, b"", b"\x93NUMPY\x01\x00\x0d\x00{'descr': (((\n"])
def test_states_that_cannot_be_read_are_all_others(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "states.npy").write_bytes(content)
    states = np.zeros((3, 4), np.int64)
    assert file_states.other_states(tmp_path / "states.npy", states).tolist() == [0, 1, 2]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was decoded ("decoded") and which files were read to compare them, from now on."""
    made: list[str] = []
    decode_chunk, digest = decode.decode_chunk, file_states._digest

    def counted_chunk(chunk: decode.Chunk) -> decode.Decoded:
        made.append("decoded")
        return decode_chunk(chunk)

    def counted_digest(file: Path) -> bytes:
        made.append(file.name)
        return digest(file)

    monkeypatch.setattr(decode, "decode_chunk", counted_chunk)
    monkeypatch.setattr(file_states, "_digest", counted_digest)
    return made


def test_a_file_whose_state_alone_changed_is_compared_once(
    class_tree: Path, calls: list[str]
) -> None:
    load(class_tree)
    calls.clear()
    load(class_tree)
    assert calls == []
    file = class_tree / "cat" / "3.png"
    file.chmod(stat.S_IRUSR)  # the inode stays, the state has another time
    load(class_tree)
    assert calls == ["3.png"]
    load(class_tree)
    assert calls == ["3.png"]


def test_a_copy_that_keeps_times_is_compared_once_and_not_decoded(
    class_tree: Path, tmp_path: Path, calls: list[str]
) -> None:
    first = load(class_tree)
    moved = tmp_path / "elsewhere" / "pets"
    shutil.copytree(class_tree, moved)
    calls.clear()
    assert np.array_equal(load(moved).train_images, first.train_images)
    assert len(calls) == 15
    assert "decoded" not in calls
    load(moved)
    assert len(calls) == 15


def test_a_changed_copy_that_keeps_times_is_decoded(greys: Path, tmp_path: Path) -> None:
    load(greys)
    moved = tmp_path / "elsewhere" / "pets"
    shutil.copytree(greys, moved)
    before = (moved / "dog" / "2.bmp").stat()
    plain(moved / "dog" / "2.bmp", 77)
    os.utime(moved / "dog" / "2.bmp", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (image_of(load(moved), "dog/2.bmp") == 77).all()
    assert (image_of(load(greys), "dog/2.bmp") == 12).all()


def test_a_file_system_with_other_inodes_after_each_mount_decodes_nothing(
    class_tree: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(class_tree)
    calls.clear()
    state = file_states._state
    monkeypatch.setattr(
        file_states, "_state", lambda file: (state(file)[0], state(file)[1] ^ (1 << 40))
    )
    load(class_tree)
    assert len(calls) == 15
    assert "decoded" not in calls


def test_states_that_are_lost_are_made_again_without_decoding(
    class_tree: Path, cache: Path, calls: list[str]
) -> None:
    load(class_tree)
    (states,) = cache.glob("arrays/*/source_states.npy")
    for spoil in (lambda: states.unlink(), lambda: states.write_bytes(b"half")):
        spoil()
        calls.clear()
        load(class_tree)
        assert len(calls) == 15
        assert "decoded" not in calls
        load(class_tree)
        assert len(calls) == 15


def test_whoever_may_only_read_the_cache_compares_every_time(
    class_tree: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(class_tree)
    (class_tree / "cat" / "3.png").chmod(stat.S_IRUSR)
    calls.clear()

    def refuse(path: Path, content: bytes) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(file_states, "write_atomic", refuse)
    load(class_tree)
    load(class_tree)
    assert calls == ["3.png", "3.png"]


def test_refresh_decodes_again(class_tree: Path, cache: Path, calls: list[str]) -> None:
    first = load(class_tree)
    calls.clear()
    second = load(class_tree, refresh=True)
    assert "decoded" in calls
    assert np.array_equal(first.train_images, second.train_images)
    assert len(list(cache.glob("arrays/pets-*/entry.json"))) == 1


def test_a_mended_file_of_the_same_size_and_time_is_read(greys: Path, tmp_path: Path) -> None:
    """A broken image that becomes whole is a replaced file, too."""
    file = greys / "cat" / "1.bmp"
    whole = file.read_bytes()
    file.write_bytes(bytes(len(whole)))
    before = file.stat()
    assert load(greys).left_out == {"broken": 1}
    file.write_bytes(whole)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    dataset = load(greys)
    assert dataset.left_out == {}
    assert np.array_equal(image_of(dataset, "cat/1.bmp"), preprocess(file, dataset.input))


def test_what_is_no_file_has_a_state_and_no_digest(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    files = [tmp_path / "absent", tmp_path, tmp_path / "pipe"]
    assert file_states.states_of([tmp_path / "absent"]).tolist() == [[-1, -1]]
    assert list(file_states.digests_of(files)) == [bytes(32)] * 3
    assert file_states.states_of([]).shape == (0, 2)
