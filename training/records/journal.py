"""What each epoch gave: on the screen, in `journal.jsonl` and as TensorBoard events."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from runtime.base.files import write_atomic

if TYPE_CHECKING:
    from tqdm import tqdm

JOURNAL = "journal.jsonl"
_EVENTS_VERSION = "brain.Event:2"


class Journal:
    """Writes the lines of a run.

    The checkpoint holds the lines, and `journal.jsonl` is written whole each time. So after a crash
    it has exactly the epochs that the checkpoint knows. Events are appended to a file of this
    process, as TensorBoard expects it.
    """

    def __init__(self, folder: Path, lines: Sequence[dict[str, Any]]) -> None:
        self._journal = folder / JOURNAL
        self._write_lines(lines)
        name = f"events.out.tfevents.{int(time.time())}.{os.getpid()}"
        self._events = _EventFile(folder / name)
        # TensorBoard then hides former events of this epoch and of later ones. A process that was
        # killed may lack those of its checkpoint's last epoch, or have some of a later epoch.
        self._events.restart_from(lines[-1]["epoch"] if lines else 1)
        if lines:
            self._add_events(lines[-1])

    def add(self, lines: Sequence[dict[str, Any]]) -> None:
        """Records the last of `lines`, which are all lines of the run so far."""
        self._write_lines(lines)
        self._add_events(lines[-1])

    def close(self) -> None:
        self._events.close()

    def _add_events(self, line: dict[str, Any]) -> None:
        scalars = {name: value for name, value in line.items() if isinstance(value, float)}
        self._events.add_scalars(scalars, step=line["epoch"])

    def _write_lines(self, lines: Sequence[dict[str, Any]]) -> None:
        write_atomic(self._journal, b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


class _EventFile:
    """Event records, written at once and in this thread.

    torch's SummaryWriter writes them in a thread of its own. There a full disk raises an error that
    nobody catches.
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


def counted(count: int, noun: str) -> str:
    """The number and its noun: "1 epoch", "2 epochs"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class Progress:
    """What training says while it works: a bar on a terminal, a line for each epoch elsewhere.

    The bar goes to stderr, the lines go to stdout. A `quiet` process says nothing.
    """

    def __init__(self, *, epochs: int, quiet: bool = False) -> None:
        self._epochs = epochs
        self._quiet = quiet
        self._bar: tqdm[Any] | None = None

    @contextmanager
    def epoch(self, epoch: int, *, step: int, steps: int) -> Iterator[None]:
        """Shows the progress of an epoch of `steps` steps, of which `step` are already done."""
        if self._quiet or not sys.stderr.isatty():
            yield
            return
        # Commands that only word figures import this module, too, also where tqdm is missing.
        from tqdm import tqdm

        words = f"epoch {epoch}/{self._epochs}"
        with tqdm(total=steps, initial=step, desc=words, unit="step", leave=False) as self._bar:
            yield
        self._bar = None

    def advance(self) -> None:
        """Counts one step."""
        if self._bar is not None:
            self._bar.update()

    def report(self, line: dict[str, Any]) -> None:
        """Prints the figures of an epoch's line."""
        validated = line.get("validation_top1")
        words = "" if validated is None else f"  validation top-1 {validated:6.2%}"
        self.say(
            f"epoch {line['epoch']:>{len(str(self._epochs))}}/{self._epochs}"
            f"  loss {line['loss']:7.4f}{words}  test top-1 {line['top1']:6.2%}"
            f"  {line['images_per_second']:6.0f} images/s  {line['seconds']:5.1f} s"
        )

    def say(self, text: str) -> None:
        if not self._quiet:
            print(text, flush=True)  # noqa: T201
