"""`journal.jsonl` and TensorBoard events: what each epoch gave."""

from pathlib import Path
from typing import Any

import msgspec

from runtime.files import write_atomic

JOURNAL = "journal.jsonl"


class Journal:
    """Writes the lines of a run; rank 0 of a run has one.

    The lines themselves live in the checkpoint. The file is written whole each time, so after a
    crash it holds exactly the epochs that the checkpoint knows.
    """

    def __init__(self, folder: Path, lines: list[dict[str, Any]]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # a second to import

        self._path = folder / JOURNAL
        self._write(lines)
        # Events of epochs after the checkpoint, of a run that was killed, are hidden.
        first = lines[-1]["epoch"] + 1 if lines else 1
        self._events = SummaryWriter(str(folder), purge_step=first)

    def add(self, lines: list[dict[str, Any]]) -> None:
        """Records the last of `lines`."""
        self._write(lines)
        line = lines[-1]
        for name, value in line.items():
            if isinstance(value, float):
                self._events.add_scalar(name, value, line["epoch"])
        self._events.flush()

    def close(self) -> None:
        self._events.close()

    def _write(self, lines: list[dict[str, Any]]) -> None:
        write_atomic(self._path, b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
