"""The frames of a video file or a camera, by OpenCV (extra `video`)."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.base.closable import Closable
from runtime.base.errors import UserError

INSTALL = "pip install opencv-python-headless"
_MILLISECONDS = 1e3


@dataclass(frozen=True)
class Frame:
    """One picture: its number, its time after the start, and uint8 RGB (H, W, 3)."""

    index: int
    seconds: float
    image: NDArray[np.uint8]


class Video(Closable):
    """An open video or camera. Iterating over it gives its frames. It must be closed."""

    def __init__(self, source: str, *, every: int = 1) -> None:
        """Opens a video.

        Args:
            source: a file, the number of a camera ("0"), or whatever else OpenCV can open.
            every: gives every n-th frame only.

        Raises:
            UserError: OpenCV is not installed, there is no such video, or `every` is below 1.
        """
        if every < 1:
            raise UserError(f"every {every} is out of range; expected 1 or more")
        self._source = source
        self.is_camera = source.isdecimal() or source.startswith("/dev/video")
        self._every = every
        self._cv2 = _load_cv2()
        self._capture = self._cv2.VideoCapture(int(source) if source.isdecimal() else source)
        if not self._capture.isOpened():
            raise UserError(
                f"{source} cannot be opened as a video; expected a video file or a camera's number"
            )
        if self.is_camera:
            self._capture.set(self._cv2.CAP_PROP_BUFFERSIZE, 1)  # gives the newest frame

    def __iter__(self) -> Iterator[Frame]:
        """The frames, to the end.

        Raises:
            UserError: a video has no frame that can be read, or a camera gives no more pictures.
        """
        index = 0
        while self._capture.grab():
            if index % self._every == 0:
                seconds = self._capture.get(self._cv2.CAP_PROP_POS_MSEC) / _MILLISECONDS
                decoded, image = self._capture.retrieve()
                if decoded:
                    yield Frame(index, seconds, self._cv2.cvtColor(image, self._cv2.COLOR_BGR2RGB))
            index += 1
        if self.is_camera:
            raise UserError(
                f"camera {self._source} gives no more pictures; is it still plugged in?"
            )
        if index == 0:
            raise UserError(f"{self._source} has no frame that can be read; convert it, or another")

    def close(self) -> None:
        self._capture.release()


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
