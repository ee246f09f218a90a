"""What TensorRT says while it builds, a line on a terminal and nothing else unasked; and Ctrl-C."""

import logging
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet_log() -> Iterator[None]:
    """Keeps TensorRT's messages out of the output: an int8 build warns hundreds of times.

    Errors are in the logger's own list, and in the exception that is made of them.
    """
    log = logging.getLogger("runtime.backends.tensorrt_library")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """Leaves Ctrl-C to the system, which ends the process at once; nothing half built is on disk.

    Python would raise KeyboardInterrupt at its next line, and that lies in a callback of TensorRT,
    which reports the exception as a message and goes on building.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    former = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


def progress_monitor(trt: Any, title: str) -> Any:
    """An IProgressMonitor of the module `trt` that keeps one line on a terminal up to date."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase: str, _parent: str | None, steps: int) -> None:
            self._steps[phase] = steps
            self._show(f"{title}: {phase}")

        def step_complete(self, phase: str, step: int) -> bool:
            self._show(f"{title}: {phase} {step + 1}/{self._steps.get(phase, step + 1)}")
            return True  # go on

        def phase_finish(self, phase: str) -> None:
            self._steps.pop(phase, None)
            if not self._steps:
                self._show("")

        def _show(self, text: str) -> None:
            # \r to the line's start, then clear to its end: the next text may be shorter. One that
            # fills the line would go on in the next, where \r does not come back from.
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r\x1b[K{text[:width]}")
            sys.stderr.flush()

    return Monitor()
