"""`classify --video`: every frame of a file, in order, in the right colours."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import numpy as np
import pytest

from runtime import UserError
from runtime.inference.video import Video

Run = Callable[..., CompletedProcess[str]]
cv2 = pytest.importorskip("cv2", reason="needs the extra `video`")
FRAMES = 12


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four red frames, four green, four blue, at 10 frames a second."""
    path = tmp_path_factory.mktemp("video") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (64, 48))
    assert writer.isOpened()
    for colour in ((0, 0, 220), (0, 220, 0), (220, 0, 0)):  # OpenCV's order is BGR
        for _ in range(FRAMES // 3):
            writer.write(np.full((48, 64, 3), colour, np.uint8))
    writer.release()
    return path


def test_frames_have_numbers_times_and_rgb(clip: Path) -> None:
    video = Video(str(clip), every=5)
    frames = list(video)
    video.close()
    assert [frame.index for frame in frames] == [0, 5, 10]
    assert [frame.seconds for frame in frames] == pytest.approx([0.0, 0.5, 1.0], abs=0.11)
    assert [int(frame.image.mean(axis=(0, 1)).argmax()) for frame in frames] == [0, 1, 2]
    assert not video.is_camera


def test_the_command_labels_each_frame(
    command: Run, cli: Run, clip: Path, toy_bundle: Path, tmp_path: Path
) -> None:
    finished = command(
        "-m", "runtime", "classify", toy_bundle, "--video", clip, "--json", cwd=tmp_path, check=True
    )
    records = [json.loads(line) for line in finished.stdout.splitlines()]
    assert [record["frame"] for record in records] == list(range(FRAMES))
    labels = [record["predictions"][0]["label"] for record in records]
    assert labels == ["red"] * 4 + ["green"] * 4 + ["blue"] * 4
    people = cli("classify", toy_bundle, "--video", clip, "--every", "4").stdout.splitlines()
    assert [line.split(": ")[1].split()[0] for line in people[1:]] == ["red", "green", "blue"]


def test_mistakes_are_one_line(cli: Run, toy_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    for arguments, words in (
        (["--video", "absent.mp4"], "absent.mp4 cannot be opened as a video"),
        (["--video", "text.mp4"], "text.mp4 cannot be opened as a video"),
        (["--video", "99"], "99 cannot be opened as a video"),
        (["--video", "text.mp4", "--every", "0"], "expected a whole number above 0"),
        (["a.png", "--video", "text.mp4"], "leave out a.png"),
    ):
        finished = cli("classify", toy_bundle, *arguments)
        assert finished.returncode == 2
        assert len(finished.stderr.splitlines()) == 1
        assert words in finished.stderr


@pytest.mark.parametrize(
    ("source", "words"), [("0", "camera 0 gives no more pictures"), ("a.mp4", "a.mp4 has no frame")]
)
def test_an_end_that_is_none_is_an_error(
    source: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = SimpleNamespace(
        isOpened=lambda: True, set=lambda *_: True, grab=lambda: False, release=lambda: None
    )
    fake = SimpleNamespace(VideoCapture=lambda _: capture, CAP_PROP_BUFFERSIZE=38)
    monkeypatch.setitem(sys.modules, "cv2", fake)
    with Video(source) as video, pytest.raises(UserError, match=words):
        list(video)


def test_without_opencv_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match=r"pip install opencv-python-headless"):
        Video("0")
