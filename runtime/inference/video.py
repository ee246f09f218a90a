"""The frames of a video file, a stream or a camera, by OpenCV (extra `video`)."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import UserError
from runtime.base.resources import Closable
from runtime.inference.frame_numbers import FrameNumbers
from runtime.inference.live_frames import LiveFrames
from runtime.inference.stated_frames import last_shown_at, states_number

INSTALL = "pip install opencv-python-headless"
_MILLISECONDS = 1e3
_EXPECTED = "a video file, a stream's address or a camera's number"
_MOST_DIGITS = 9  # of a camera's number, which is an int of 32 bits in OpenCV


@dataclass(frozen=True)
class Frame:
    """One picture: its number, its time after the start, and uint8 RGB (H, W, 3)."""

    index: int
    seconds: float
    image: NDArray[np.uint8]


class Video(Closable):
    """An open video or camera. Iterating over it gives its frames. It must be closed.

    Attributes:
        is_camera: whether it is a camera.
        is_live: whether it is a camera or a stream, which has no end of its own.
    """

    def __init__(
        self,
        source: str,
        *,
        every: int = 1,
        reconnect: bool = False,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Opens a video.

        Args:
            source: a file, the number of a camera ("0"), or whatever else OpenCV can open.
            every: gives every n-th frame only, of those that can be read.
            reconnect: opens a stream or camera again when it breaks, and gives its newest frame:
                frames that came while nobody asked for one are dropped.
            note: is told of each break, and at the end how many frames were dropped.

        Raises:
            UserError: OpenCV is not installed, there is no such video, `every` is below 1, or
                `reconnect` is asked for a file.
        """
        if every < 1:
            raise UserError(f"every {every} is out of range; expected 1 or more")
        if not source:
            raise UserError(f"received '' for a video; expected {_EXPECTED}")
        if source.isdecimal() and len(source) > _MOST_DIGITS:
            raise UserError(f"there is no camera of the number {source}; expected {_EXPECTED}")
        self._source = source
        self.is_camera = source.isdecimal() or source.startswith("/dev/video")
        self._every = every
        self._cv2 = _load_cv2()
        self._capture = self._open()
        if not self._capture.isOpened():
            raise UserError(f"{source} cannot be opened as a video; expected {_EXPECTED}")
        self.is_live = self.is_camera or ("://" in source and self._number_of_frames() < 1)
        if reconnect and not self.is_live:
            raise UserError(f"--reconnect is for streams and cameras; {source} is a file")
        self._note = note
        self._live: LiveFrames | None = None
        if reconnect:
            self._live = LiveFrames(
                self._capture, self._open, lambda words: note(f"{source} {words}")
            )

    @property
    def dropped(self) -> int:
        """How many frames of a live source were dropped for newer ones."""
        return 0 if self._live is None else self._live.dropped

    def __iter__(self) -> Iterator[Frame]:
        """The frames, to the end. They keep their numbers and times beside missing ones.

        Raises:
            UserError: a video has no frame that can be read, or has ended before its end; or a
                camera or stream gives no more pictures.
        """
        frames = self._of_file() if self._live is None else self._of_live(self._live)
        for index, seconds, image in frames:
            yield Frame(index, seconds, self._cv2.cvtColor(image, self._cv2.COLOR_BGR2RGB))

    def close(self) -> None:
        """Closes the source; tells how many frames were dropped."""
        if self._live is None:
            self._capture.release()
            return
        live, self._live = self._live, None
        live.close()
        self._note(f"{self._source}: {live.dropped} of {live.arrived} frames were dropped")

    def _of_live(self, live: LiveFrames) -> Iterator[tuple[int, float, Any]]:
        return (frame for frame in live if frame[0] % self._every == 0)

    def _of_file(self) -> Iterator[tuple[int, float, Any]]:
        numbers: FrameNumbers | None = None
        while self._capture.grab():
            if numbers is None:
                rate = 0.0 if self.is_live else self._capture.get(self._cv2.CAP_PROP_FPS)
                numbers = FrameNumbers(rate)
            seconds = self._capture.get(self._cv2.CAP_PROP_POS_MSEC) / _MILLISECONDS
            wanted = numbers.read % self._every == 0
            decoded, image = self._capture.retrieve() if wanted else (True, None)
            ready = numbers.add(seconds, image if decoded else None, decoded=decoded)
            yield from (frame for frame in ready if frame[2] is not None)
        if numbers is not None:
            yield from (frame for frame in numbers.rest() if frame[2] is not None)
        if self.is_camera:
            raise UserError(
                f"camera {self._source} gives no more pictures; is it still plugged in? "
                "--reconnect opens it again"
            )
        if numbers is None or numbers.read == 0:
            raise UserError(f"{self._source} has no frame that can be read; convert it, or another")
        if self.is_live:
            raise UserError(
                f"{self._source} broke after {numbers.read} frames; --reconnect opens it again"
            )
        if total := self._total_if_some_are_missing(numbers):
            raise UserError(
                f"{self._source} ended after {numbers.read} of {total} frames; it is cut off or "
                "damaged: copy it again"
            )

    def _total_if_some_are_missing(self, numbers: FrameNumbers) -> int:
        path = Path(self._source)
        last = last_shown_at(path)
        if last is None:
            return numbers.missing_of(self._number_of_frames(), exact=states_number(path))
        frames = 1 + round(last * self._capture.get(self._cv2.CAP_PROP_FPS))
        return numbers.missing_of(frames, exact=False)

    def _number_of_frames(self) -> int:
        """What the file says, or OpenCV's estimate; 0 or less for a stream."""
        return int(self._capture.get(self._cv2.CAP_PROP_FRAME_COUNT))

    def _open(self) -> Any:
        source = self._source
        capture = self._cv2.VideoCapture(int(source) if source.isdecimal() else source)
        if self.is_camera and capture.isOpened():
            capture.set(self._cv2.CAP_PROP_BUFFERSIZE, 1)  # gives the newest frame
        return capture


def _load_cv2() -> Any:
    # FFmpeg, inside of OpenCV, prints on stderr what we report ourselves. OpenCV reads these
    # variables when it is imported.
    if "cv2" not in sys.modules:
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    try:
        import cv2
    except ImportError as error:
        raise UserError(f"--video needs OpenCV; install it with `{INSTALL}`") from error
    return cv2
