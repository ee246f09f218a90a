"""What a node of a Ray cluster does for a study: it says what it lacks, and it trains runs.

Nothing here imports Ray: the class and the function are given to it by training.studies.ray_runs.
A node that sees the study's folder trains in it. Another one trains in a folder of its own, and
the command that started the run fetches the files that have changed.
"""

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TypeAlias

from runtime.base.command import VERSION
from runtime.base.errors import UserError
from runtime.base.files import cache_root, write_atomic
from training.config.options import Options
from training.records.run_folder import is_locked
from training.records.tracker import check_tracker
from training.studies.local_runs import start_run
from training.studies.study_run import StudyRun

_SCRATCH = "ray-runs"  # in the node's cache: the runs whose folders it does not share
# A run that lost its node's supervision writes a checkpoint and ends, before it is trained anew.
_LOCK_SECONDS = 120

State: TypeAlias = tuple[int, int]  # of a file: time of change in ns, and bytes


@dataclass(frozen=True)
class Order:
    """A run for a node.

    Attributes:
        run: with absolute paths; its parent folder is that of the command's machine.
        working_folder: of the command.
        mark: a file of the study's folder; a node that can read it shares the folder.
        mark_text: what the file holds.
        threads: OMP_NUM_THREADS of the command, if it is set there.
        gpus: the run's share; without one it sees none.
        forget_shared: whether the node shall use a folder of its own in any case (for tests).
    """

    run: StudyRun
    working_folder: Path
    mark: Path
    mark_text: str
    threads: str | None
    gpus: float
    forget_shared: bool = False


@dataclass(frozen=True)
class Look:
    """What a node says of its run.

    Attributes:
        code: the exit code; None while the run goes on.
        files: those that have changed since the look before, by their path below the parent folder.
        states: of all files.
    """

    code: int | None
    files: dict[str, bytes]
    states: dict[str, State]


def lacking(options: Options, version: str) -> str | None:
    """What this node lacks to train as `options` ask; None: nothing.

    Args:
        options: that all runs share, with absolute paths.
        version: of the command's SKD Edge.
    """
    from training.data import data_names
    from training.data.forms import is_data

    if version != VERSION:
        return f"has SKD Edge {VERSION}, and this machine has {version}; install the same one"
    if options.data not in data_names() and not is_data(Path(options.data)):
        return f"has no {options.data}; put the data there, or on storage that all nodes share"
    if options.data_root is not None and not options.data_root.is_dir():
        return f"has no folder {options.data_root} (--data-root)"
    try:
        check_tracker(options.log)
    except UserError as error:
        return f"cannot log: {error}"
    return None


class NodeRun:
    """A run on this node. Its process has this one as parent: it ends when this one is killed."""

    def __init__(self, order: Order) -> None:
        self._run = order.run
        self._shared = not order.forget_shared and _text_of(order.mark) == order.mark_text
        self._process: subprocess.Popen[bytes] | None = None
        self._begun_at = monotonic()
        if order.threads is not None:  # Ray has set it to the run's processors
            os.environ["OMP_NUM_THREADS"] = order.threads
        if not order.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        with suppress(OSError):
            os.chdir(order.working_folder)
        if not self._shared:
            whole = f"{socket.gethostname()}:{order.run.parent}:{order.mark_text}"
            name = hashlib.sha256(whole.encode()).hexdigest()[:16]
            parent = cache_root() / _SCRATCH / name
            self._run = replace(self._run, parent=parent)

    def shares_folder(self) -> bool:
        """Whether the run trains in the study's own folder."""
        return self._shared

    def begin(self, files: dict[str, bytes]) -> None:
        """Takes the run's former files, which a node has that shares the folder."""
        if self._shared:
            return
        self.clear()
        for name, content in files.items():
            write_atomic(self._run.parent / name, content)
        self._run.folder.mkdir(parents=True, exist_ok=True)

    def look(self, known: dict[str, State]) -> Look:
        """Starts the run as soon as its folder is free; says how it is.

        Args:
            known: the states of the files as the caller has them.
        """
        if self._process is None:
            waits = monotonic() - self._begun_at < _LOCK_SECONDS and is_locked(self._run.folder)
            if not waits:
                self._process = start_run(self._run, 1)
        # Asked before the files are read, so that those of a run that has ended are the last ones.
        code = self._process.poll() if self._process is not None else None
        if self._shared:
            return Look(code, {}, {})
        states = files_of(self._run)
        changed = {name for name, state in states.items() if known.get(name) != state}
        files = {name: (self._run.parent / name).read_bytes() for name in changed}
        return Look(code, files, states)

    def send(self, number: int) -> None:
        """Sends the run a signal, as `signal.SIGTERM`; one that has not begun never does."""
        if self._process is None:
            self._process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
        elif self._process.poll() is None:
            if number == signal.SIGTERM:
                self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)

    def clear(self) -> None:
        """Removes what a node that does not share the folder has of the run."""
        if not self._shared:
            shutil.rmtree(self._run.folder, ignore_errors=True)
            for path in (self._run.log, self._run.recipe_file):
                path.unlink(missing_ok=True)


def files_of(run: StudyRun) -> dict[str, State]:
    """The files of a run and their states, by their path below the parent folder.

    Hidden files are locks, and files that are being written.
    """
    found = {}
    for path in (run.log, *run.folder.rglob("*")):
        with suppress(FileNotFoundError):
            if not path.name.startswith(".") and path.is_file():
                about = path.stat()
                name = path.relative_to(run.parent).as_posix()
                found[name] = (about.st_mtime_ns, about.st_size)
    return found


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None
