"""The process that sends a run's journal to a tracker, however long its server takes.

`tracker-NAME.json` in the run's folder keeps which epochs were sent, so that a run that goes on, in
another process and after a kill, goes on in the tracker, too.
"""

import os
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from runtime.base.errors import first_line
from runtime.base.files import write_atomic
from runtime.model.locate import RESULT
from training.records.journal import JOURNAL
from training.records.tracker import state_file
from training.records.tracker_sinks import SINKS, Sink

_POLL_SECONDS = 1.0
_RETRY_SECONDS = 15.0  # after a server could not be reached
_LAST_SECONDS = 60.0  # after training has ended
_SHOWN = 160  # characters of a package's error


class Sent(msgspec.Struct):
    """What a tracker has of a run: its name for it, and the last epoch."""

    run: str | None = None
    epoch: int = 0


class Follower:
    """Sends what is new in a run's folder."""

    def __init__(self, name: str, folder: Path, params: dict[str, Any]) -> None:
        self._name, self._folder, self._params = name, folder, params
        self._state = state_file(folder, name)
        self._sink: Sink | None = None
        self._sent = Sent()
        if self._state.exists():
            self._sent = msgspec.json.decode(self._state.read_bytes(), type=Sent)

    def send(self) -> None:
        """Sends the epochs that were not sent. Raises what the tracker's package raises."""
        lines = [line for line in self._lines() if line["epoch"] > self._sent.epoch]
        if self._sink is None:
            self._sink = SINKS[self._name](self._folder.name, self._sent.run, self._params)
            self._keep(self._sent.epoch)
        for line in lines:
            self._sink.log(_numbers(line), step=line["epoch"])
            self._keep(line["epoch"])

    def finish(self) -> None:
        """Sends the rest, and the result if there is one. Raises what the package raises."""
        self.send()
        assert self._sink is not None
        result = self._folder / RESULT
        finished = result.exists()
        figures = _numbers(msgspec.json.decode(result.read_bytes())) if finished else {}
        final = {f"final_{name}": value for name, value in figures.items()}
        self._sink.finish(final, step=self._sent.epoch, finished=finished)

    def forget_sink(self) -> None:
        """Opens the tracker anew with the next call."""
        self._sink = None

    def _lines(self) -> list[dict[str, Any]]:
        try:
            text = (self._folder / JOURNAL).read_bytes()
        except OSError:
            return []
        return [msgspec.json.decode(line) for line in text.splitlines()]

    def _keep(self, epoch: int) -> None:
        assert self._sink is not None
        self._sent = Sent(self._sink.run, epoch)
        write_atomic(self._state, msgspec.json.encode(self._sent))


def main(name: str, folder: str) -> None:
    """Follows the run until stdin, whose first line has its settings, is closed."""
    # What the tracker's package prints goes to the log. What is said here goes to the user.
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    params = msgspec.json.decode(sys.stdin.readline())
    ended = threading.Event()
    threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
    follower = Follower(name, Path(folder), params)
    said, retry_at = False, 0.0
    while not ended.is_set():
        if time.monotonic() < retry_at:
            ended.wait(_POLL_SECONDS)
            continue
        try:
            follower.send()
        except Exception as error:  # whatever it is, training goes on
            retry_at = time.monotonic() + _RETRY_SECONDS
            follower.forget_sink()
            print(f"{name}: {error!r}", file=sys.stderr, flush=True)  # noqa: T201
            if not said:
                _tell(told, f"{name} cannot be reached ({_why(error)}); training goes on")
                said = True
        ended.wait(_POLL_SECONDS)
    try:
        follower.finish()
    except Exception as error:
        print(f"{name}: not all was sent: {error!r}", file=sys.stderr, flush=True)  # noqa: T201
        if not said:
            _tell(told, f"{name} cannot be reached ({_why(error)}); not all was sent")


def _tell(told: Any, sentence: str) -> None:
    try:
        told.write(sentence + "\n")
    except OSError:  # training has ended, and the log has it
        print(sentence, file=sys.stderr, flush=True)  # noqa: T201


def _why(error: Exception) -> str:
    return textwrap.shorten(first_line(error), _SHOWN, placeholder="...")


def _wait_for_end(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()
    time.sleep(_LAST_SECONDS)
    print("the tracker did not take the last lines in time", file=sys.stderr, flush=True)  # noqa: T201
    os._exit(1)


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    """The figures among the values, as TensorBoard gets them."""
    return {name: value for name, value in values.items() if isinstance(value, float)}
