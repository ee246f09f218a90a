"""Decoding: processes change no byte; broken images are named and left out."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from runtime.base.errors import UserError
from runtime.model.card import InputSpec
from runtime.model.preprocess import decode_image, preprocess
from training.data import Dataset, decode, load_dataset
from training.data.source import split_of

SPEC = InputSpec(size=24, resize=28, crop=24, mean=(0.5,) * 3, std=(0.5,) * 3)


def load(root: Path) -> Dataset:
    return load_dataset(str(root), image_size=32, progress=False)


def decoded(tmp_path: Path, images: Any) -> tuple[np.ndarray, list[decode.Broken]]:
    file = tmp_path / "out.npy"
    steps = list(decode.decode_split(split_of(images, np.zeros(len(images))), SPEC, file))
    assert sum(step.images for step in steps) == len(images)
    return np.load(file), [broken for step in steps for broken in step.broken]


def test_processes_and_one_process_give_preprocess_bytes(
    tmp_path: Path, write_image: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [
        write_image(tmp_path / f"{n}.jpg", width=30 + n, height=41 - n, seed=n) for n in range(11)
    ]
    files[6].write_text("no picture")
    expected = np.stack(
        [
            np.zeros((24, 24, 3), np.uint8) if n == 6 else preprocess(f, SPEC)
            for n, f in enumerate(files)
        ]
    )
    monkeypatch.setattr(decode, "_CHUNK_IMAGES", 2)
    alone, broken = decoded(tmp_path, files)
    assert np.array_equal(alone, expected)
    assert [image.row for image in broken] == [6]
    monkeypatch.setattr(decode, "_MIN_IMAGES_FOR_PROCESSES", 1)
    monkeypatch.setattr(decode, "usable_cores", lambda: 2)
    workers, real = [], decode._in_processes
    monkeypatch.setattr(
        decode, "_in_processes", lambda *given: (workers.append(given[1]), real(*given))[1]
    )
    together, broken = decoded(tmp_path, files)
    assert workers == [2]
    assert np.array_equal(together, expected)
    assert [image.row for image in broken] == [6]
    assert str(files[6]) in broken[0].message


def test_every_format_gives_the_bytes_of_preprocess(tmp_path: Path, write_image: Any) -> None:
    image = Image.open(write_image(tmp_path / "a.png", width=90, height=70))
    ways = {"JPEG": {"progressive": True}, "GIF": {}, "TIFF": {"compression": "tiff_lzw"}}
    ways |= {"WEBP": {}, "BMP": {}, "MPO": {"save_all": True, "append_images": [image.copy()]}}
    ways |= {"AVIF": {"speed": 10}} if features.check("avif") else {}
    files = []
    for kind, options in ways.items():
        image.copy().save(tmp_path / kind, kind, **options)
        files.append(tmp_path / kind)
    rows, broken = decoded(tmp_path, files)
    assert not broken
    assert np.array_equal(rows, np.stack([preprocess(file, SPEC) for file in files]))
    assert np.array_equal(rows, np.stack([preprocess(file.read_bytes(), SPEC) for file in files]))


def test_values_of_few_bits_are_told_at_every_start(
    class_tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cat", "dog"):
        values = np.linspace(0, 4095, 1600).astype(np.uint16).reshape(40, 40)
        Image.fromarray(values).save(class_tree / name / "deep.png")
    for _ in range(2):  # the second time from the cache
        load(class_tree)
        output = capsys.readouterr().out
        assert "pets: 2 images of this kind: the 16-bit values end below 4096" in output


def test_the_cache_knows_all_code_that_decides_pixels() -> None:
    """Every module that a decoding passes through is part of the key."""
    code = decode.decoding_code()
    for module in ("colours", "jpeg_files", "png_files", "tiff_files", "other_files"):
        file = Path(decode_image.__code__.co_filename).parents[1] / "images" / f"{module}.py"
        assert file.read_text() in code, module


def test_arrays_are_preprocessed_like_files(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), dtype=np.uint8)
    rows, broken = decoded(tmp_path, images)
    assert np.array_equal(rows, np.stack([preprocess(image, SPEC) for image in images]))
    assert not broken


def test_a_killed_worker_is_one_clear_line_for_arrays(
    tmp_path: Path, write_image: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [write_image(tmp_path / f"{n}.jpg", seed=n) for n in range(4)]
    monkeypatch.setattr(decode, "_CHUNK_IMAGES", 1)
    monkeypatch.setattr(decode, "_MIN_IMAGES_FOR_PROCESSES", 1)
    monkeypatch.setattr(decode, "usable_cores", lambda: 2)
    monkeypatch.setattr(decode, "_follow_parent", _die)
    with pytest.raises(UserError, match="was killed"):
        decoded(tmp_path, files)


def _die() -> None:
    os._exit(9)


SLOW_DECODING = """
import os, sys, time
from pathlib import Path
import numpy as np
from runtime.model.card import InputSpec
from training.data import decode
from training.data.source import split_of

def slow_chunk(chunk):
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    decode._MIN_IMAGES_FOR_PROCESSES = decode._CHUNK_IMAGES = 1
    decode.decode_chunk = slow_chunk
    spec = InputSpec(size=24, resize=24, crop=24, mean=(0.5,) * 3, std=(0.5,) * 3)
    split = split_of([Path(f"{n}.png") for n in range(4)], np.zeros(4))
    list(decode.decode_split(split, spec, Path(sys.argv[1], "out.npy")))
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="counts the cores of Linux")
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) == 1:
        pytest.skip("one core: no processes are used")
    (tmp_path / "slow.py").write_text(SLOW_DECODING)
    with subprocess.Popen(
        [sys.executable, tmp_path / "slow.py", tmp_path], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert worker != parent.pid
        parent.kill()
    deadline = time.monotonic() + 20
    while _is_running(worker):
        assert time.monotonic() < deadline, "the worker outlives its parent"
        time.sleep(0.05)


def _is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(
    class_tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_dataset(str(class_tree), image_size=32)
    assert "decoding pets: 15 of 15 images" in capsys.readouterr().out
    load_dataset(str(class_tree), image_size=33, progress=False)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    load_dataset(str(class_tree), image_size=34)
    assert "15/15" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"text, not a picture", b"", b"\xff\xd8\xff\xe0 half"])
def test_one_broken_image_is_named_and_left_out(
    class_tree: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = load(class_tree)
    # The other test image of its class stays, so the class keeps images in both splits.
    broken = class_tree / "cat" / "3.png"
    broken.write_bytes(content)
    dataset = load(class_tree)
    captured = capsys.readouterr()
    assert f"skipped {broken}" in captured.out
    assert "1 broken images skipped" in captured.out
    assert captured.err == "", "a mistake that follows is the one line there"
    kept = [*dataset.train_images, *dataset.test_images]
    assert len(kept) == 14
    assert {image.tobytes() for image in kept} < {
        image.tobytes() for image in (*whole.train_images, *whole.test_images)
    }
    load(class_tree)
    assert "1 broken images skipped" in capsys.readouterr().out


def test_a_link_that_leads_in_a_circle_is_a_broken_image(
    class_tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    circle = class_tree / "cat" / "5.png"
    circle.symlink_to(circle.name)
    dataset = load(class_tree)
    assert len(dataset.train_labels) + len(dataset.test_labels) == 15
    assert f"skipped {circle}" in capsys.readouterr().out


def test_more_broken_images_are_an_error_that_names_them(class_tree: Path) -> None:
    for name in ("cat/3.png", "dog/4.png"):
        (class_tree / name).write_bytes(b"")
    with pytest.raises(UserError) as error:
        load(class_tree)
    message = str(error.value)
    assert "2 of 15 images are broken, at most 1 are skipped" in message
    assert "cat/3.png" in message
    assert "dog/4.png" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("train/emu/0.png", "class 'emu' has no training images.*broken images are skipped"),
        ("test/ant/0.png", "has no test images.*broken images are skipped"),
        ("val/ant/0.png", "the validation split has no image that can be read"),
    ],
)
def test_a_broken_image_that_leaves_a_class_or_split_empty_is_named(
    tmp_path: Path, write_image: Any, broken: str, message: str
) -> None:
    root = tmp_path / "zoo"
    for seed, path in enumerate(("train/ant/0", "train/ant/1", "train/emu/0", "val/ant/0")):
        write_image(root / f"{path}.png", seed=seed)
    write_image(root / "test" / "ant" / "0.png", seed=9)
    (root / broken).write_bytes(b"no picture")
    with pytest.raises(UserError, match=f"{message}: .*{broken}"):
        load(root)


def test_one_per_cent_of_many_may_be_broken(tmp_path: Path, write_image: Any) -> None:
    root = tmp_path / "many"
    for number in range(200):
        write_image(root / "ab"[number % 2] / f"{number}.png", width=16, height=16, seed=number)
    for number in (0, 1):
        (root / "ab"[number] / f"{number}.png").write_text("broken")
    assert len(load(root).train_labels) + len(load(root).test_labels) == 198
    (root / "a" / "2.png").write_text("broken")
    with pytest.raises(UserError, match="3 of 200 images are broken, at most 2"):
        load(root)


def test_a_class_that_loses_its_only_training_image(tmp_path: Path, write_image: Any) -> None:
    for number in range(3):
        write_image(tmp_path / "s" / "train" / "a" / f"{number}.png", seed=number)
        write_image(tmp_path / "s" / "test" / "ab"[number % 2] / f"{number}.png", seed=9 + number)
    broken = tmp_path / "s" / "train" / "b" / "x.png"
    broken.parent.mkdir()
    broken.write_text("broken")
    with pytest.raises(UserError, match="class 'b' has no training images"):
        load(tmp_path / "s")
