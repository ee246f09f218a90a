"""The newest frame of a stream that is opened again whenever it breaks."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from runtime.base.resources import Closable

_FIRST_PAUSE_S = 0.2  # before a stream is opened again; doubled after each failure
_LONGEST_PAUSE_S = 5.0


class LiveFrames(Closable):
    """Reads a stream in a thread, so that whoever is slower than it always gets its newest frame.

    Attributes:
        arrived: how many frames came.
        dropped: how many of them were replaced by newer ones before they were asked for.
    """

    def __init__(
        self, capture: Any, reopen: Callable[[], Any], note: Callable[[str], None]
    ) -> None:
        """Starts to read.

        Args:
            capture: an open `cv2.VideoCapture`.
            reopen: opens the stream again; what it returns may be closed.
            note: is told, in the reading thread, of each break.
        """
        self._capture = capture
        self._reopen = reopen
        self._note = note
        self._changed = threading.Condition()
        self._newest: tuple[int, float, Any] | None = None
        self._closed = threading.Event()
        self._failure: Exception | None = None  # by which the reading thread has ended
        self.arrived = 0
        self.dropped = 0
        self._thread = threading.Thread(target=self._read, name="stream", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[tuple[int, float, Any]]:
        """Number, seconds after the start and BGR pixels of each newest frame, until the end.

        What has ended the reading thread is raised: without it no frame would ever come.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._closed.is_set())
                newest, self._newest = self._newest, None
            if newest is None:
                if self._failure is not None:
                    raise self._failure
                return
            yield newest

    def close(self) -> None:
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(timeout=_LONGEST_PAUSE_S)  # OpenCV may wait longer for a silent stream

    def _read(self) -> None:
        try:
            self._read_frames()
        except Exception as error:
            with self._changed:
                self._failure = error
                self._closed.set()
                self._changed.notify_all()
        finally:
            self._capture.release()

    def _read_frames(self) -> None:
        started = time.monotonic()
        while not self._closed.is_set():
            good, image = self._capture.read()
            if not good:
                self._open_again()
                continue
            with self._changed:
                self.dropped += self._newest is not None
                self._newest = (self.arrived, time.monotonic() - started, image)
                self.arrived += 1
                self._changed.notify_all()

    def _open_again(self) -> None:
        self._note(f"broke after {self.arrived} frames; it is opened again")
        pause = _FIRST_PAUSE_S
        while not self._closed.wait(pause):
            self._capture.release()
            self._capture = self._reopen()
            if self._capture.isOpened():
                return
            pause = min(2 * pause, _LONGEST_PAUSE_S)
