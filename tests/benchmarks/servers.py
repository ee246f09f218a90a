"""Starting and ending the servers that are measured."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

START_SECONDS = 60
_PROJECT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: Sequence[str | Path], *, health: str) -> Iterator[int]:
    """Runs a server until it is healthy; yields its process id.

    It starts in this project's folder, so that `-m runtime` is the runtime of this project.
    """
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=_PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=_set_apart,
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _healthy(health):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server did not start: {' '.join(map(str, command))}")
            time.sleep(0.1)
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=15)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # workers that outlived their parent


@contextmanager
def our_server(bundle: Path, *options: str) -> Iterator[tuple[str, int]]:
    """`python -m runtime serve`; yields the URL of classify and the process id."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "runtime",
        "serve",
        bundle.resolve(),
        "--port",
        str(port),
        *options,
    ]
    base = f"http://127.0.0.1:{port}"
    with running(command, health=f"{base}/readyz") as pid:
        yield f"{base}/v1/classify", pid


def processor_seconds(process: int) -> float:
    """The processor time that a process has used (proc(5): utime and stime)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _set_apart() -> None:
    """Called in the child: it gets a process group, to be ended as a whole, and less priority.

    Real clients run on other machines. Here they must not be late because the server is busy.
    """
    os.setpgrp()
    os.nice(5)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
