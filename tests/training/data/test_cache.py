"""The cache: data is decoded once; an entry is whole or absent, and made again if damaged."""

import inspect
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

from runtime.base.errors import UserError
from training.data import Dataset, block_checksums, cache_entry, decode, folders, load_dataset
from training.data.cache import load_cached
from training.data.dataset import Geometry, photographs, whole_images

SIZE = 32


def load(root: Path, **options: Any) -> Dataset:
    return load_dataset(str(root), **{"image_size": SIZE, "progress": False, **options})


def equal(first: Dataset, second: Dataset) -> bool:
    return (
        first.class_names == second.class_names
        and first.input == second.input
        and np.array_equal(first.train_images, second.train_images)
        and np.array_equal(first.train_labels, second.train_labels)
        and np.array_equal(first.test_images, second.test_images)
        and np.array_equal(first.test_labels, second.test_labels)
    )


def entries(cache: Path) -> list[Path]:
    return sorted(
        path for path in (cache / "arrays").iterdir() if path.is_dir() and path.name[0] != "."
    )


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function; after its call, decoding fails the test."""

    def forbid() -> None:
        def refuse(*arguments: object) -> None:
            raise AssertionError("an image is decoded")

        monkeypatch.setattr(decode, "decode_chunk", refuse)
        monkeypatch.setattr(decode, "decode_image", refuse)

    return forbid


def test_a_second_load_decodes_nothing(class_tree: Path, no_decoding: Callable[[], None]) -> None:
    first = load(class_tree)
    no_decoding()
    second = load(class_tree)
    assert equal(first, second)
    assert isinstance(second.train_images, np.memmap)


def test_the_arrays_cannot_be_written_to(class_tree: Path) -> None:
    dataset = load(class_tree)
    with pytest.raises(ValueError, match="read-only"):
        dataset.train_images[0] = 0


def test_a_moved_copy_of_the_data_uses_the_same_entry(
    class_tree: Path, tmp_path: Path, no_decoding: Callable[[], None]
) -> None:
    load(class_tree)
    shutil.copytree(class_tree, tmp_path / "elsewhere" / class_tree.name)  # keeps times of change
    no_decoding()
    load(tmp_path / "elsewhere" / class_tree.name)


def change_time(root: Path) -> None:
    os.utime(root / "cat" / "0.png", ns=(1, 1))


def change_content(root: Path) -> None:
    shutil.copy(root / "dog" / "1.png", root / "cat" / "0.png")


def remove_file(root: Path) -> None:
    (root / "cat" / "0.png").unlink()


def add_file(root: Path) -> None:
    shutil.copy(root / "cat" / "0.png", root / "cat" / "9.png")


def rename_class(root: Path) -> None:
    (root / "cat").rename(root / "cow")


@pytest.mark.parametrize(
    "change", [change_time, change_content, remove_file, add_file, rename_class]
)
def test_any_change_of_the_files_is_a_new_entry(
    class_tree: Path, cache: Path, change: Callable[[Path], None]
) -> None:
    load(class_tree)
    change(class_tree)
    load(class_tree)
    assert len(entries(cache)) == 2


def test_size_and_split_are_part_of_the_key(class_tree: Path, cache: Path) -> None:
    load(class_tree)
    load(class_tree, image_size=SIZE + 1)
    load(class_tree, split_seed=1)
    assert len(entries(cache)) == 3


def test_geometry_is_part_of_the_key(class_tree: Path, cache: Path) -> None:
    source = folders.folder_source(class_tree, split_seed=0)
    for geometry in (
        photographs(SIZE),
        whole_images(SIZE, mean=(0.5,) * 3, std=(0.5,) * 3),
        Geometry(input=photographs(SIZE).input, stored=photographs(SIZE + 4).input),
    ):
        assert load_cached(source, geometry, progress=False).input == geometry.input
    assert len(entries(cache)) == 3


def test_other_preprocessing_code_is_a_new_entry(
    class_tree: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(class_tree)

    source_of = inspect.getsource
    monkeypatch.setattr(inspect, "getsource", lambda module: source_of(module) + "# changed")
    load(class_tree)
    assert len(entries(cache)) == 2


def truncate(entry: Path) -> None:
    with (entry / "train_images.npy").open("r+b") as file:
        file.truncate(1000)


def flip_a_byte(entry: Path) -> None:
    with (entry / "test_images.npy").open("r+b") as file:
        file.seek(5000)
        byte = file.read(1)[0]
        file.seek(5000)
        file.write(bytes([byte ^ 1]))


def change_a_label(entry: Path) -> None:
    labels = np.load(entry / "train_labels.npy")
    labels[0] += 1
    np.save(entry / "train_labels.npy", labels)


def lose_a_file(entry: Path) -> None:
    (entry / "test_labels.npy").unlink()


def lose_the_record(entry: Path) -> None:
    (entry / "entry.json").unlink()


def break_the_record(entry: Path) -> None:
    (entry / "entry.json").write_text('{"key": ')


def foreign_record(entry: Path) -> None:
    record = json.loads((entry / "entry.json").read_text())
    (entry / "entry.json").write_text(json.dumps({**record, "key": "0" * 64}))


def empty_folder(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.mkdir()


DAMAGES = [
    truncate,
    flip_a_byte,
    change_a_label,
    lose_a_file,
    lose_the_record,
    break_the_record,
    foreign_record,
    empty_folder,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_mended(
    class_tree: Path,
    cache: Path,
    damage: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = load(class_tree)
    first = Dataset(**{**vars(first), "train_images": np.array(first.train_images)})
    first = Dataset(**{**vars(first), "test_images": np.array(first.test_images)})
    (entry,) = entries(cache)
    damage(entry)
    second = load(class_tree)
    assert "is damaged" in capsys.readouterr().out
    assert equal(first, second)
    assert entries(cache) == [entry]
    assert sorted(path.name for path in entry.iterdir()) == sorted(
        (*cache_entry.FILES, "source_states.npy", "entry.json")
    )
    load(class_tree)
    assert "is damaged" not in capsys.readouterr().out


def test_an_interrupted_build_leaves_nothing(
    class_tree: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(decode, "decode_chunk", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load(class_tree)
    assert not entries(cache)
    assert not [path for path in (cache / "arrays").iterdir() if path.is_dir()]
    load(class_tree)


@pytest.mark.parametrize("kind", ["4711.new", "4711.old"])
def test_what_a_killed_build_left_is_removed(class_tree: Path, cache: Path, kind: str) -> None:
    load(class_tree)
    (entry,) = entries(cache)
    left_over = entry.with_name(f".{entry.name}.{kind}")
    entry.rename(left_over)
    (left_over / "whole.npy").write_bytes(b"half")
    load(class_tree)
    assert entries(cache) == [entry]
    assert not left_over.exists()
    assert sorted(path.name for path in entry.iterdir()) == sorted(
        (*cache_entry.FILES, "source_states.npy", "entry.json")
    )


def test_two_processes_decode_once(class_tree: Path, cache: Path) -> None:
    code = (
        "import sys; from training.data import load_dataset;"
        "d = load_dataset(sys.argv[1], image_size=32);"
        "print(int(d.train_images.sum()), int(d.test_images.sum()))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(class_tree)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    first, second = (output.splitlines()[-1] for output, _ in outputs)
    assert first == second
    assert sum("decoding pets: 15 of 15" in output for output, _ in outputs) == 1
    assert len(entries(cache)) == 1


def test_a_cache_that_cannot_be_written_is_one_clear_line(
    class_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(UserError, match="SKD_EDGE_CACHE") as error:
        load(class_tree)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("named", ["~no-such-user/cache", ""])
def test_a_cache_in_a_home_that_is_not_there(
    class_tree: Path, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's user may have neither HOME nor a line in /etc/passwd."""
    monkeypatch.setenv("SKD_EDGE_CACHE", named)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 12345)
    with pytest.raises(UserError, match=r"there is no home folder .*; set SKD_EDGE_CACHE to a fo"):
        load(class_tree)


def test_a_full_disk_is_found_before_decoding(
    class_tree: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_decoding: Callable[[], None],
) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    no_decoding()
    with pytest.raises(UserError, match="free some, or set SKD_EDGE_CACHE"):
        load(class_tree)
    assert not entries(cache)


def test_a_disk_that_fills_while_broken_images_are_left_out(
    tmp_path: Path, write_image: Callable[..., Path]
) -> None:
    """Writing to a memory map on a full disk would end the process without a message (SIGBUS)."""
    for number in range(40):
        write_image(tmp_path / "pets" / "ab"[number % 2] / f"{number}.png", seed=number)
    (tmp_path / "pets" / "a" / "0.png").write_text("broken")
    small = tmp_path / "small"
    small.mkdir()
    # 32 training images of 146 px are 2.0 MB, which fit once, and 8 test images of 128 px 0.4 MB.
    mounted = f"mount -t tmpfs -o size=3200k none {small}"
    unshared = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec"]
    if not shutil.which("unshare") or subprocess.run([*unshared, mounted], check=False).returncode:
        pytest.skip("no small file system can be mounted here")
    code = (
        "import sys; from training.data import load_dataset;"
        "load_dataset(sys.argv[1], image_size=128, progress=False)"
    )
    ended = subprocess.run(
        [*unshared, f'{mounted}; "$0" -c "{code}" {tmp_path / "pets"}', sys.executable],
        env={**os.environ, "SKD_EDGE_CACHE": str(small)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    complaint = "OSError: [Errno 28] No space left on device: "
    assert ended.stderr.splitlines()[-1].startswith(f"{complaint}'{small}/arrays/pets-128-")


def test_loading_imports_no_torch(class_tree: Path) -> None:
    code = (
        "import sys; from training.data import load_dataset;"
        "load_dataset(sys.argv[1], image_size=32, progress=False);"
        "heavy = {'torch', 'torchvision', 'sklearn', 'scipy'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, str(class_tree)], check=True, timeout=120)


def test_checksums_find_a_changed_byte_in_any_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_checksums, "_BLOCK_BYTES", 100)
    content = np.random.default_rng(0).bytes(950)
    file = tmp_path / "file"
    file.write_bytes(content)
    checksums = block_checksums.checksums_of(file)
    assert len(checksums.crc32) == 10
    block_checksums.verify_file(file, checksums)
    for position in (0, 99, 100, 555, 949):
        file.write_bytes(
            content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        )
        with pytest.raises(ValueError, match="has changed"):
            block_checksums.verify_file(file, checksums)
    file.write_bytes(content + b"x")
    with pytest.raises(ValueError, match="951 bytes, expected 950"):
        block_checksums.verify_file(file, checksums)


def test_of_a_very_large_file_an_even_selection_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_checksums, "_BLOCK_BYTES", 100)
    monkeypatch.setattr(block_checksums, "_MAX_CHECKED_BYTES", 300)
    read: list[int] = []
    real = block_checksums._checksum
    monkeypatch.setattr(
        block_checksums, "_checksum", lambda file, start: (read.append(start), real(file, start))[1]
    )
    (tmp_path / "file").write_bytes(bytes(1000))
    checksums = block_checksums.checksums_of(tmp_path / "file")
    read.clear()
    block_checksums.verify_file(tmp_path / "file", checksums)
    assert sorted(read) == [0, 400, 800]
