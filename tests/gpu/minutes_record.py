"""`minutes.jsonl`: a line for each part of a run of minutes. It goes with the runs to each machine.

So a part that has ended well anywhere is not done again, and those that were ended by their limits
come after those that have not been tried.
"""

import os
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from runtime.base.files import write_atomic
from runtime.model.locate import RUNS
from training.studies.result_lines import Line, read_lines

RECORD = "minutes.jsonl"
KEPT = RUNS / RECORD  # of all calls before this one, wherever they were


def note(out: Path, facts: Line) -> None:
    """Prints a line and adds it to the record in `out`, at once and on the disk."""
    line = {"at": datetime.now(timezone.utc).isoformat(timespec="seconds"), **facts}
    text = msgspec.json.encode(line).decode()
    print(text, flush=True)
    with (out / RECORD).open("a", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def record_of(scale: str) -> list[Line]:
    """The lines of a scale in KEPT."""
    return [line for line in read_lines(KEPT) if line.get("scale") == scale]


def keep_record(file: Path) -> int:
    """Adds the lines of the record `file` that are new to KEPT; how many these are."""
    former = read_lines(KEPT)
    new = [line for line in read_lines(file) if line not in former]
    if new:
        content = b"".join(msgspec.json.encode(line) + b"\n" for line in [*former, *new])
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(KEPT, content)
    return len(new)


def done_parts(lines: Iterable[Line]) -> set[str]:
    """The parts that have ended well."""
    return {line["part"] for line in lines if line.get("exit_code") == 0}


def tries(lines: Iterable[Line]) -> Counter[str]:
    """How often each part was begun and did not end well."""
    return Counter(line["part"] for line in lines if line.get("exit_code", 0) != 0)
