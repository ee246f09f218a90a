"""Decoding goes on where a killed process had stopped, and says before what it takes."""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.base.errors import UserError
from training.data import Dataset, cache_room, decode, decode_journal, load_dataset
from training.data.cache_room import size_words, time_words

PICTURES = 60

KILLED = """
import os, signal, sys
from training.data import decode, load_dataset, resumable_decoding

resumable_decoding._CHUNK_IMAGES = 4
real, done = decode.decode_chunk, 0

def counted(chunk):
    global done
    if done >= int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    done += len(chunk.images)
    return real(chunk)

decode.decode_chunk = counted
load_dataset(sys.argv[1], image_size=32)
"""


def load(path: Path, **options: Any) -> Dataset:
    return load_dataset(str(path), **{"image_size": 32, **options})


def arrays_of(dataset: Dataset) -> list[Any]:
    names = ("images", "labels", "paths", "sha256", "pictures")
    parts = [getattr(dataset, f"{split}_{name}") for split in ("train", "test") for name in names]
    return [np.array(part).tolist() for part in parts]


@pytest.fixture
def shards(tmp_path: Path, write_image: Callable[..., Path]) -> Path:
    """Two shards of 30 pictures each, of three classes."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(2):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for number in range(30):
                name = f"{shard}{number:02}"
                archive.add(
                    write_image(tmp_path / "one.png", seed=100 * shard + number), f"{name}.png"
                )
                (tmp_path / "one.cls").write_text("abc"[number % 3])
                archive.add(tmp_path / "one.cls", f"{name}.cls")
    return folder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of pictures that are decoded from now on, chunk by chunk."""
    counts: list[int] = []
    real = decode.decode_chunk

    def counted(chunk: decode.Chunk) -> decode.Decoded:
        counts.append(len(chunk.images))
        return real(chunk)

    monkeypatch.setattr(decode, "decode_chunk", counted)
    return counts


def killed_after(path: Path, pictures: int) -> None:
    command = [sys.executable, "-c", KILLED, str(path), str(pictures)]
    ended = subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def test_a_killed_process_is_gone_on_with(
    shards: Path,
    cache: Path,
    decoded: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("SKD_EDGE_CACHE", str(cache) + "2")
        whole = arrays_of(load(shards))
    assert sum(decoded) == PICTURES
    killed_after(shards, 30)
    (work,) = (cache / "arrays").glob(".*.part")
    assert not [path for path in (cache / "arrays").iterdir() if path.name[0] != "."]
    decoded.clear()
    capsys.readouterr()
    assert arrays_of(load(shards)) == whole
    assert sum(decoded) in range(20, 31)
    assert (
        f"{PICTURES - sum(decoded)} of 60 pictures are decoded already" in capsys.readouterr().out
    )
    assert not work.exists()


def test_of_two_kills_neither_loses_anything(shards: Path, decoded: list[int]) -> None:
    killed_after(shards, 20)
    killed_after(shards, 20)
    load(shards)
    assert sum(decoded) in range(10, 21)


def test_other_files_of_the_same_name_and_time_are_decoded_again(
    shards: Path, tmp_path: Path, decoded: list[int]
) -> None:
    killed_after(shards, 30)
    shutil.copy2(shards / "0.tar", tmp_path / "copy")
    (tmp_path / "copy").replace(shards / "0.tar")  # another inode: the same bytes, or not
    load(shards)
    assert sum(decoded) == PICTURES


def test_a_refresh_decodes_everything(shards: Path, decoded: list[int]) -> None:
    killed_after(shards, 30)
    load(shards, refresh=True)
    assert sum(decoded) == PICTURES


@pytest.mark.parametrize("cut", [1, 40])
def test_a_torn_record_is_not_believed(
    shards: Path, cache: Path, decoded: list[int], cut: int
) -> None:
    killed_after(shards, 40)
    (journal,) = (cache / "arrays").glob(".*.part/train.journal")
    content = journal.read_bytes()
    journal.write_bytes(content[:-cut])
    load(shards)
    assert sum(decoded) in range(20, 31)


def test_after_a_crash_of_the_machine_only_synced_pictures_count(
    shards: Path, decoded: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after(shards, 30)  # nothing was synced: that takes ten seconds
    (tmp_path / "boot").write_text("another start of the machine")
    monkeypatch.setattr(decode_journal, "_BOOT", tmp_path / "boot")
    load(shards)
    assert sum(decoded) == PICTURES


def test_what_is_left_of_other_files_is_told(
    shards: Path, decoded: list[int], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed_after(shards, 30)
    (work,) = (cache / "arrays").glob(".*.part")
    os.utime(shards / "0.tar", ns=(1, 1))
    load(shards)
    assert sum(decoded) == PICTURES
    assert f"{work} has " in capsys.readouterr().out
    assert work.exists()


def test_ctrl_c_keeps_what_is_decoded(
    shards: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    counted = decode.decode_chunk

    def interrupted(chunk: decode.Chunk) -> decode.Decoded:
        if sum(decoded) >= 6:
            raise KeyboardInterrupt
        return counted(chunk)

    with monkeypatch.context() as patch:
        patch.setattr(decode, "decode_chunk", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(shards)
    assert "6 decoded pictures are kept in" in capsys.readouterr().out
    load(shards)
    assert sum(decoded) == PICTURES


def test_data_that_cannot_be_used_leave_nothing(class_tree: Path, cache: Path) -> None:
    for name in ("0.png", "1.png"):
        (class_tree / "cat" / name).write_text("no picture")
    with pytest.raises(UserError, match="are broken"):
        load(class_tree)
    assert not [path for path in (cache / "arrays").iterdir() if path.is_dir()]


def test_a_line_says_before_what_decoding_takes(
    shards: Path, capsys: pytest.CaptureFixture[str], decoded: list[int]
) -> None:
    load(shards)
    lines = capsys.readouterr().out.splitlines()
    (told,) = [n for n, line in enumerate(lines) if "decoding takes about" in line]
    assert lines[told].startswith("shards: 60 pictures; 184 kB in ")  # 60 * 32 * 32 * 3 bytes
    assert "decoding shards: 60 of 60 images" in lines[told + 1]


@pytest.mark.parametrize(
    ("free", "words"), [(1000, "1.0 kB"), (100, "100 bytes"), (183_000, "183 kB")]
)
def test_a_disk_without_room_is_named_with_its_size(
    shards: Path, free: int, words: str, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    usage = shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr(cache_room.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=rf"needs 184 kB and .* has {words} free"):
        load(shards)
    assert not decoded


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (37_500_000, "38 MB"),
        (1.5e9, "1.5 GB"),
        (2e13, "20,000 GB"),
    ],
)
def test_sizes_in_words(size: float, words: str) -> None:
    assert size_words(size) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (90, "90 s"), (150, "2 min"), (4000, "1 h 6 min")]
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert time_words(seconds) == words


def test_several_processes_decode_the_same_bytes(shards: Path) -> None:
    """The same pictures in several processes and in one give the same bytes."""
    code = (
        "import sys; from training.data import load_dataset, resumable_decoding as r;"
        "r._MIN_IMAGES_FOR_PROCESSES, r._CHUNK_IMAGES = map(int, sys.argv[2:]);"
        "r.usable_cores = lambda: 2; workers, real = [], r.in_processes;"
        "r.in_processes = lambda *a, **k: (workers.append(k['workers']), real(*a, **k))[1];"
        "data = load_dataset(sys.argv[1], image_size=32, progress=False, refresh=True);"
        "print(data.train_images.tobytes().__hash__(), *workers)"
    )
    several, one = [
        subprocess.run(
            [sys.executable, "-c", code, str(shards), *numbers],
            env={**os.environ, "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout.split()
        for numbers in (("1", "8"), ("512", "64"))
    ]
    assert several == [*one, "2", "2"]  # of the training and the test images


# Each worker imports this file, and so gets what is patched here. The first chunk that a worker
# takes kills it, when the parent has kept 24 pictures that it or the other worker has decoded.
KILLED_WORKER = """
import multiprocessing, os, sys, time
from pathlib import Path
from runtime.base.command import run_command
from training.data import decode, load_dataset, resumable_decoding

def poisoned(chunk):
    if multiprocessing.parent_process() is not None:
        try:
            os.close(os.open(KILLER, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            while not os.path.exists(KEPT) or os.path.getsize(KEPT) < 24:
                time.sleep(0.01)
            os._exit(9)
    return decoded(chunk)

def kept(self, stored):
    taken = real(self, stored)
    with open(KEPT, "ab") as file:
        file.write(b"." * len(taken.decoded.rows))
    return taken

def main(arguments):
    load_dataset(arguments[0], image_size=32)
    return 0

KILLER, KEPT = (str(Path(__file__).with_name(name)) for name in ("killer", "kept"))
decoded, decode.decode_chunk = decode.decode_chunk, poisoned
real, resumable_decoding.Decoding._kept = resumable_decoding.Decoding._kept, kept
resumable_decoding.usable_cores = lambda: 2
resumable_decoding._MIN_IMAGES_FOR_PROCESSES, resumable_decoding._CHUNK_IMAGES = 1, 4
if __name__ == "__main__":
    run_command(main, extra="train")
"""


def test_a_killed_worker_is_one_clear_line_and_loses_nothing(
    shards: Path,
    tmp_path: Path,
    cache: Path,
    decoded: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "killed").mkdir()
    script = tmp_path / "killed" / "killed.py"
    script.write_text(KILLED_WORKER)
    ended = subprocess.run(
        [sys.executable, script, shards], capture_output=True, text=True, check=False, timeout=240
    )
    assert ended.returncode == 2, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert "a process that decodes images was killed, perhaps for want of memory (2 ran)" in line
    kept = (script.parent / "kept").stat().st_size
    assert 24 <= kept < PICTURES
    load(shards)
    assert f"{kept} of 60 pictures are decoded already" in capsys.readouterr().out
    assert sum(decoded) == PICTURES - kept
    resumed = arrays_of(load(shards))
    monkeypatch.setenv("SKD_EDGE_CACHE", str(cache) + "2")
    assert arrays_of(load(shards)) == resumed
