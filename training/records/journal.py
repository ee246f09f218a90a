"""`journal.jsonl` and TensorBoard events: what each epoch gave."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from runtime.base.files import write_atomic

JOURNAL = "journal.jsonl"
_EVENTS_VERSION = "brain.Event:2"


class Journal:
    """Writes the lines of a run.

    The lines themselves live in the checkpoint, and `journal.jsonl` is written whole each time: so
    after a crash it holds exactly the epochs that the checkpoint knows. Events are appended to a
    file of this process, as TensorBoard expects of runs that it watches.
    """

    def __init__(self, folder: Path, lines: Sequence[dict[str, Any]]) -> None:
        self._journal = folder / JOURNAL
        self._write_lines(lines)
        name = f"events.out.tfevents.{int(time.time())}.{os.getpid()}"
        self._events = _EventFile(folder / name)
        # Hides events of later epochs, which a killed process may have written.
        self._events.restart_from(lines[-1]["epoch"] + 1 if lines else 1)

    def add(self, lines: Sequence[dict[str, Any]]) -> None:
        """Records the last of `lines`."""
        self._write_lines(lines)
        line = lines[-1]
        scalars = {name: value for name, value in line.items() if isinstance(value, float)}
        self._events.add_scalars(scalars, step=line["epoch"])

    def close(self) -> None:
        self._events.close()

    def _write_lines(self, lines: Sequence[dict[str, Any]]) -> None:
        write_atomic(self._journal, b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


class _EventFile:
    """Event records written at once and here.

    torch's SummaryWriter writes them in a thread, where a full disk is a traceback nobody catches.
    """

    def __init__(self, path: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = event_pb2, summary_pb2
        self._file = path.open("wb", buffering=0)
        self._writer = RecordWriter(self._file)
        self._write(file_version=_EVENTS_VERSION)

    def restart_from(self, step: int) -> None:
        log = self._event.SessionLog
        self._write(step=step, session_log=log(status=log.START))

    def add_scalars(self, scalars: dict[str, float], *, step: int) -> None:
        values = [
            self._summary.Summary.Value(tag=name, simple_value=value)
            for name, value in scalars.items()
        ]
        self._write(step=step, summary=self._summary.Summary(value=values))

    def close(self) -> None:
        self._file.close()

    def _write(self, **content: Any) -> None:
        event = self._event.Event(wall_time=time.time(), **content)
        self._writer.write(event.SerializeToString())
