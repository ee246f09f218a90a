"""Which files of a folder are images: by content, links followed, the rest counted by reason."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime.base.errors import UserError
from runtime.images.image_folders import ImageFolders, in_order, in_words
from runtime.images.image_formats import format_of, is_read
from runtime.model.locate import CHECKPOINT, RESULT, RUNS


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def names(root: Path) -> tuple[list[str], dict[str, int]]:
    folders = ImageFolders(root)
    images = in_order(folders.images_below(root))
    return [str(image.relative_to(root)) for image in images], dict(folders.left_out)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("suffix", ["", ".dat", ".5", ".JFIF"])
def test_content_makes_a_file_an_image(kind: str, suffix: str, tmp_path: Path) -> None:
    put(tmp_path / f"picture{suffix}", encoded(kind))
    assert names(tmp_path)[0] == [f"picture{suffix}"]


def test_what_is_no_image_is_counted_by_its_format(tmp_path: Path) -> None:
    put(tmp_path / "notes.txt", b"cats are on page 1\n")
    put(tmp_path / "BM", b"BMW, the car, and a text that starts with the letters of a BMP file")
    put(tmp_path / "drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    put(tmp_path / "page.pdf", b"%PDF-1.7 and more")
    put(tmp_path / "empty", b"")
    put(tmp_path / "numbers", bytes(range(256)))
    os.mkfifo(tmp_path / "pipe")
    put(tmp_path / "a.png", encoded("PNG"))
    folders = ImageFolders(tmp_path)
    assert in_order(folders.images_below(tmp_path)) == [tmp_path / "a.png"]
    assert dict(folders.left_out) == {"not an image": 7}
    assert dict(folders.others) == {
        "a text file": 2,
        "an SVG file": 1,
        "a PDF file": 1,
        "unknown": 2,
        "no file": 1,
    }


@pytest.mark.parametrize(
    "run",
    [
        "runs/photos-mobilenetv2-ce-s0/checkpoint.pt",
        "runs/studies/main/photos-mobilenetv2-ce-s0/result.json",
        "runs/tune/photos-mobilenetv2/.lock",
        "cat/mine/checkpoint.pt",
    ],
)
def test_runs_of_training_are_no_images(run: str, tmp_path: Path) -> None:
    """Who trains in the folder of the pictures would else learn a class of our plots."""
    assert (CHECKPOINT, RESULT, str(RUNS)) == ("checkpoint.pt", "result.json", "runs")
    put(tmp_path / run, b"")
    put((tmp_path / run).with_name("journal.jsonl"), b"")
    put((tmp_path / run).with_name("curves.png"), encoded("PNG"))
    put(tmp_path / "cat" / "a.png", encoded("PNG"))
    found, left_out = names(tmp_path)
    assert found == ["cat/a.png"]
    assert left_out["folder of training runs"] == 1


def test_a_class_may_be_called_like_the_folder_of_runs(tmp_path: Path) -> None:
    """A horse that runs, and somebody's weights beside the pictures."""
    put(tmp_path / "runs" / "fast" / "a.png", encoded("PNG"))
    put(tmp_path / "walks" / "checkpoint.pt", b"")
    put(tmp_path / "walks" / "b.png", encoded("PNG"))
    assert names(tmp_path)[0] == ["runs/fast/a.png", "walks/b.png"]


def test_links_are_followed_once_and_loops_are_found(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    put(outside / "one.png", encoded("PNG"))
    root = tmp_path / "root"
    put(root / "own.png", encoded("PNG"))
    (root / "linked").symlink_to(outside)
    (root / "linked-again").symlink_to(outside)
    (root / "one-file").symlink_to(outside / "one.png")
    (root / "back").symlink_to(root)
    (root / "up").symlink_to(tmp_path)
    (root / "itself").symlink_to(root / "itself")
    (root / "gone").symlink_to(tmp_path / "nowhere")
    found, left_out = names(root)
    assert found == ["linked/one.png", "one-file", "own.png"]
    assert left_out["folder read already"] == 3
    assert left_out["link that leads nowhere"] == 2


def test_what_is_hidden_or_of_a_system_is_counted(tmp_path: Path) -> None:
    for place in (".a.png", ".cache/b.png", "@eaDir/c.jpg", "Thumbs.db", "__MACOSX/._d.png"):
        put(tmp_path / place, encoded("PNG"))
    put(tmp_path / "kept.png", encoded("PNG"))
    found, left_out = names(tmp_path)
    assert found == ["kept.png"]
    assert left_out == {"hidden": 2, "system file or folder": 3, "not an image": 0}


@pytest.mark.parametrize("mode", [0o000, 0o600])
def test_a_folder_that_cannot_be_read_is_an_error(
    mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shut = tmp_path / "a" / "shut"
    put(shut / "a.png", encoded("PNG"))
    if os.geteuid() == 0:  # whom no mode keeps out
        real, real_stat = os.scandir, os.stat

        def refuse(folder: Path) -> object:
            if Path(folder) == shut:
                raise PermissionError(13, "Permission denied", str(folder))
            return real(folder)

        def refuse_file(path: Any, **options: Any) -> os.stat_result:
            if not isinstance(path, int) and Path(path).parent == shut:
                raise PermissionError(13, "Permission denied", str(path))
            return real_stat(path, **options)

        monkeypatch.setattr(os, "scandir", refuse)
        monkeypatch.setattr(os, "stat", refuse_file)
    shut.chmod(mode)
    try:
        with pytest.raises(UserError, match=r"shut cannot be listed \(Permission denied\)"):
            names(tmp_path)
    finally:
        shut.chmod(0o700)


def test_a_count_is_in_words_with_most_first() -> None:
    assert in_words({"hidden": 1, "not an image": 12, "folder read already": 0}) == (
        "not an image 12, hidden 1"
    )
    assert in_words({}) == ""


def test_a_format_is_named_by_its_first_bytes() -> None:
    assert format_of(b"\r\n\xff\xd8\xff\xe0") == "JPEG"
    assert format_of(b"RIFF\0\0\0\0WAVEfmt ") == "a sound file"
    assert format_of(b"\0\0\0\x18ftypisom") == "a video"
    assert format_of(b"P5\n3 3\n255\n") == "a Netpbm file (PBM, PGM or PPM)"
    assert format_of(b"\x80\x81\x82") == ""
    assert not is_read(b"ID3\3\0\0APIC\xff\xd8\xff")  # the cover of a sound file is no picture
