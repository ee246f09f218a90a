"""`minutes.jsonl`: a line for each part of a run of minutes. It goes with the runs to each machine.

So a part that has ended well anywhere, with nothing left out, is not done again, and those that
were ended by their limits come after those that have not been tried.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path

import msgspec

from runtime.base.files import write_atomic
from runtime.model.locate import RUNS
from training.studies.result_lines import Line, read_lines
from training.studies.run_queue import commit_of

RECORD = "minutes.jsonl"
ROOT = Path(__file__).resolve().parents[2]
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


def place() -> Line:
    """What a line says of the code and the machine: the commit, CUDA, and kinds of TensorRT."""
    import torch  # takes seconds

    cuda = torch.cuda.is_available()
    return {"commit": commit_of(ROOT), "cuda": cuda, "tensorrt": _kinds_of_tensorrt()}


def _kinds_of_tensorrt() -> list[str]:
    return [name for name in ("tensorrt", "tensorrt_rtx") if find_spec(name)]


def skipped_tests(log: Path) -> int:
    """How many tests pytest has skipped, by the last line of what it printed."""
    *_, last = ["", *log.read_text(encoding="utf-8", errors="replace").splitlines()]
    found = re.search(r"\b(\d+) skipped\b", last)
    return int(found[1]) if found else 0


def done_parts(lines: Iterable[Line]) -> set[str]:
    """The parts that have ended well, and whole."""
    return {line["part"] for line in lines if _is_done(line)}


def tries(lines: Iterable[Line]) -> Counter[str]:
    """How often each part was begun and did not end well, or not whole."""
    return Counter(line["part"] for line in lines if "exit_code" in line and not _is_done(line))


def _is_done(line: Line) -> bool:
    """Tests that were left out or skipped are to be run where there is what they lacked.

    Where there is CUDA and no more of TensorRT than there was, they would be skipped again.
    """
    more = {*_kinds_of_tensorrt()} - {*line.get("tensorrt", ())}
    skipped = line.get("skipped") and (more or not line.get("cuda"))
    return line.get("exit_code") == 0 and not line.get("not_in_it") and not skipped
