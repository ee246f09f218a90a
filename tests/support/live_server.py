"""Servers on a real socket, for tests of what clients get: in this process, or the command."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from runtime.server.server_config import server_config


@contextmanager
def serving(application: Any, **options: Any) -> Iterator[httpx.Client]:
    """Serves `application` in a thread; yields a client of it. `options` are the server's."""
    server = uvicorn.Server(server_config(application, port=0, **options))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def running(
    *arguments: str | Path, errors: Path | None = None, script: str | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`python -m runtime serve ARGUMENTS`, and its address.

    What it says on stderr goes to the file `errors`, or into a pipe, which takes 64 kB. A `script`
    is run in place of the module; it gets the same arguments.
    """
    program = ["-m", "runtime"] if script is None else ["-c", script]
    command = [sys.executable, *program, "serve", "--port", "0", *map(str, arguments)]
    with (
        nullcontext(subprocess.PIPE) if errors is None else errors.open("w") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if address := re.search(r"http://127\.0\.0\.1:\d+", line):
                    break
            else:
                raise AssertionError(process.stderr.read() if process.stderr else errors)
            yield process, address.group()
        finally:
            process.kill()
