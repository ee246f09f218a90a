"""`classify --video`: every frame of a file, in order, in the right colours."""

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import numpy as np
import pytest

from runtime import UserError
from runtime.inference import live_frames
from runtime.inference.frame_numbers import FrameNumbers
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
        (["--video", "9" * 20], f"there is no camera of the number {'9' * 20}; expected a video"),
        (["--video", ""], "--video: received '', expected a value"),
        (["--video", "text.mp4", "--every", "0"], "expected a whole number above 0"),
        (["a.png", "--video", "text.mp4"], "leave out a.png"),
    ):
        finished = cli("classify", toy_bundle, *arguments)
        assert finished.returncode == 2
        assert len(finished.stderr.splitlines()) == 1
        assert words in finished.stderr


def written(path: Path, code: str, frames: int = 30) -> bytes:
    """A video of `frames` frames of noise, 30 a second; its bytes."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 30.0, (96, 64))
    assert writer.isOpened()
    noise = np.random.default_rng(0)
    for _ in range(frames):
        writer.write(noise.integers(0, 255, (64, 96, 3), np.uint8))
    writer.release()
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "code"), [("a.avi", "MJPG"), ("b.mkv", "mp4v"), ("c.webm", "VP80")]
)
@pytest.mark.parametrize("share", [0.4, 0.6])
def test_a_video_that_is_cut_off_is_an_error_after_its_frames(
    name: str, code: str, share: float, cli: Run, toy_bundle: Path, tmp_path: Path
) -> None:
    content = written(tmp_path / name, code)
    assert [frame.index for frame in Video(str(tmp_path / name))] == list(range(30))
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    finished = cli("classify", toy_bundle, "--video", name, "--json")
    frames = [json.loads(line) for line in finished.stdout.splitlines()]
    assert 0.3 * 30 * share < len(frames) < 1.2 * 30 * share
    assert [frame["frame"] for frame in frames] == list(range(len(frames)))
    assert finished.returncode == 2
    assert f"{name} ended after {len(frames)} of 30 frames" in finished.stderr


@pytest.mark.parametrize(
    ("name", "code"), [("a.mp4", "mp4v"), ("b.mkv", "mp4v"), ("d.mpg", "PIM1")]
)
def test_frames_keep_their_numbers_and_times_beside_damaged_ones(
    name: str, code: str, tmp_path: Path
) -> None:
    content = bytearray(written(tmp_path / name, code))
    start, end = len(content) * 2 // 5, len(content) * 3 // 5
    content[start:end] = bytes(end - start)
    (tmp_path / name).write_bytes(content)
    frames = []
    with (
        Video(str(tmp_path / name)) as video,
        pytest.raises(UserError, match="ended after") as error,
    ):
        frames.extend((frame.index, frame.seconds) for frame in video)
    assert 3 <= len(frames) <= 28
    assert f"ended after {len(frames)} of 30 frames" in str(error.value)
    for index, seconds in frames:
        assert seconds == pytest.approx(index / 30, abs=0.002)
    assert frames[-1][0] == 29 or name == "a.mp4"  # of that, FFmpeg reads nothing behind the damage


def test_a_changing_rate_is_no_damage() -> None:
    steady, changing = FrameNumbers(30.0), FrameNumbers(30.0)
    found = [frame for number in (0, 1, 2, 5, 6) for frame in steady.add(number / 30 + 0.0004)]
    found += steady.add(0.0) + steady.rest()  # the time of the last one is lost
    assert [number for number, _, _ in found] == [0, 1, 2, 5, 6, 7]  # two are missing
    assert found[-1] == (7, pytest.approx(7 / 30), None)
    assert steady.missing_of(8, exact=True) == 8
    for number, seconds in enumerate((0, 0.034, 0.081, 0.133, 0.2, 0.3)):
        assert changing.add(seconds) == [(number, seconds, None)]
    assert changing.missing_of(6, exact=True) == 0
    # The last picture is shown for 0.1 s, as the one before: 12 / 30 s are seen.
    assert changing.missing_of(18, exact=False) == 0  # sound of a fifth of a second more
    assert changing.missing_of(20, exact=False) == 20


class Stream:
    """What OpenCV opens: `frames` pictures of a colour, and then it breaks."""

    def __init__(self, frames: int, *, opened: bool = True, pause: float = 0.0) -> None:
        self.left, self.opened, self.pause = frames, opened, pause

    def isOpened(self) -> bool:  # noqa: N802
        return self.opened

    def get(self, _: int) -> float:
        return -1.0

    def set(self, *_: object) -> bool:
        return True

    def grab(self) -> bool:
        time.sleep(self.pause)
        self.left -= 1
        return self.left >= 0

    def retrieve(self) -> tuple[bool, object]:
        return True, np.full((8, 8, 3), (0, 0, 200), np.uint8)

    def read(self) -> tuple[bool, object]:
        return self.retrieve() if self.grab() else (False, None)

    def release(self) -> None:
        self.opened = False


def test_a_stream_that_breaks_is_opened_again_with_its_newest_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pause = 0.01
    opened = [Stream(10, pause=pause), Stream(0, opened=False), Stream(1000, pause=pause)]
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: opened.pop(0))
    monkeypatch.setattr(live_frames, "_FIRST_PAUSE_S", 0.01)
    notes: list[str] = []
    found = []
    with Video("rtsp://camera", reconnect=True, note=notes.append) as video:
        for frame in video:
            found.append(frame)
            time.sleep(3 * pause)  # slower than the stream
            if len(found) == 12:
                break
        dropped = video.dropped
    numbers = [frame.index for frame in found]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] > 15  # behind the break, and not the oldest frames
    assert dropped >= numbers[-1] + 1 - len(numbers) > 0  # every frame is answered or counted
    assert int(found[0].image[0, 0].argmax()) == 0  # red, the first of RGB
    assert notes[0] == "rtsp://camera broke after 10 frames; it is opened again"
    assert notes[-1].startswith("rtsp://camera: ")
    assert notes[-1].endswith("frames were dropped")
    assert len(notes) == 2


def test_an_error_of_the_reading_thread_ends_the_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, whoever asks for the next frame would wait for ever."""
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: Stream(1))

    def note(words: str) -> None:
        if "is opened again" in words:
            raise BrokenPipeError("nobody reads the notes")

    found: list[BaseException | None] = []

    def read() -> None:
        try:
            list(video)
        except BrokenPipeError as error:
            found.append(error)

    with Video("rtsp://camera", reconnect=True, note=note) as video:
        reading = threading.Thread(target=read, daemon=True)
        reading.start()
        reading.join(timeout=60)
    assert [str(error) for error in found] == ["nobody reads the notes"]


@pytest.mark.parametrize("source", ["rtsp://camera", "0"])
def test_a_stream_that_breaks_is_an_error_without_reconnect(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: Stream(3))
    with Video(source) as video, pytest.raises(UserError, match="--reconnect opens it again"):
        assert [frame.index for frame in video] == [0, 1, 2]


def test_a_file_is_not_reconnected(clip: Path) -> None:
    with pytest.raises(UserError, match="--reconnect is for streams and cameras"):
        Video(str(clip), reconnect=True)


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
