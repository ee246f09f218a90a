"""A command with a limit: when it is over, nothing that it began is left."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from time import monotonic, sleep

# Every process that the command begins inherits it, also one in a session of its own.
_MARK = "SKD_EDGE_GPU_PART"
_POLL_SECONDS = 0.1


def run_limited(command: Sequence[str], log: Path, *, seconds: float) -> int | None:
    """Runs `command` for at most `seconds`; its output goes to `log` at once.

    When it returns, all processes that the command began have ended: those that outlive it are
    killed. They are found in /proc, so on Linux alone.

    Returns:
        Its exit code; None if it was killed because the time was over.
    """
    mark = f"{_MARK}={token_hex(8)}"
    name, _, value = mark.partition("=")
    paths = [str(Path.cwd()), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {
        **os.environ,
        name: value,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            _end_all(mark.encode())
    return code


def words(command: Sequence[str]) -> str:
    """The command as it is written down: the interpreter's path is the machine's own."""
    return " ".join("python" if word == sys.executable else word for word in command)


def _end_all(mark: bytes) -> None:
    """Kills the processes with this mark until there is none: one may be begun meanwhile."""
    end = monotonic() + 60  # one that waits for a device ends when the device answers
    while (numbers := list(_processes_with(mark))) and monotonic() < end:
        for number in numbers:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        sleep(_POLL_SECONDS)


def _processes_with(mark: bytes) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended meanwhile, or is another user's
            if mark in path.read_bytes().split(b"\0"):
                yield int(path.parent.name)
