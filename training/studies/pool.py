"""The runs of studies as processes side by side: finished ones left alone, all of them resumable.

The processes have a session of their own, so that Ctrl-C reaches this one alone, which then asks
each of them once to stop: a second signal would cost a run its last checkpoint. On Linux the system
asks them when this process is killed.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

import msgspec

from runtime.base.command import fail
from runtime.base.files import write_atomic
from runtime.base.parallel import usable_cores
from training.engine.interruption import StopRequest, stop_request
from training.studies.study_run import StudyRun

_RUN = Path(__file__).resolve().parents[1] / "run.py"
_POLL_SECONDS = 0.1
_FAILED = 1
_ERROR = "error: "  # how the line begins that a command ends with
# For a step and a checkpoint; who is compiling longer than that has none to lose.
_GRACE_SECONDS = 120
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_LIBC = ctypes.CDLL(None)  # loaded here: between fork and exec nothing may be


class Outcome(NamedTuple):
    """Runs that failed, and those that wait for another call because the time was over."""

    failed: list[StudyRun]
    unfinished: list[StudyRun]


def run_all(
    runs: Sequence[StudyRun],
    *,
    jobs: int,
    minutes: float | None = None,
    on_finish: Callable[[StudyRun], None] | None = None,
) -> Outcome:
    """Runs all that are not finished, `jobs` at a time, in order, for at most `minutes`.

    When the time is over, the runs on their way leave checkpoints and end. Ctrl-C, SIGTERM and
    SIGHUP do the same and raise KeyboardInterrupt afterwards.
    """
    missing = [run for run in runs if run.line() is None]
    if len(missing) < len(runs):
        print(f"{len(runs) - len(missing)} of {len(runs)} runs are finished", flush=True)  # noqa: T201
    with stop_request() as stop:
        pool = _Pool(missing, jobs=jobs, minutes=minutes, stop=stop, on_finish=on_finish)
        try:
            while pool.busy:
                pool.advance()
                sleep(_POLL_SECONDS)
        finally:
            pool.kill()
    if stop.requested:
        raise KeyboardInterrupt
    unfinished = [run for run in missing if run.line() is None and run not in pool.failed]
    return Outcome(pool.failed, unfinished)


def fail_runs(failed: Sequence[StudyRun], *, of: int) -> int:
    """Says what stopped the first of the failed runs, and where their logs are; the exit code."""
    logs = ", ".join(str(run.log) for run in failed)
    said = f"\n{failed[0].log.read_text(errors='replace')}".split("\n" + _ERROR)
    why = f" ({said[-1].splitlines()[0]})" if len(said) > 1 else ""
    return fail(f"{len(failed)} of {of} runs failed{why}: see {logs}", _FAILED)


class _Pool:
    """Runs that wait and runs on their way."""

    def __init__(
        self,
        runs: Sequence[StudyRun],
        *,
        jobs: int,
        minutes: float | None,
        stop: StopRequest,
        on_finish: Callable[[StudyRun], None] | None,
    ) -> None:
        self.failed: list[StudyRun] = []
        self._waiting = deque(runs)
        self._running: list[tuple[StudyRun, subprocess.Popen[bytes]]] = []
        self._jobs = jobs
        self._deadline = float("inf") if minutes is None else monotonic() + 60 * minutes
        self._stop = stop
        self._stopping_since: float | None = None
        self._on_finish = on_finish

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    def advance(self) -> None:
        """Stops or starts what has to be, and takes note of what has ended."""
        if self._stopping_since is not None:
            if monotonic() - self._stopping_since > _GRACE_SECONDS:
                self.kill()
        elif self._stop.requested or monotonic() >= self._deadline:
            self._stopping_since = monotonic()
            self._waiting.clear()
            for _, process in self._running:
                process.terminate()
        while self._waiting and len(self._running) < self._jobs:
            run = self._waiting.popleft()
            self._running.append((run, _start(run, self._jobs)))
        for run, process in list(self._running):
            if process.poll() is not None:
                self._running.remove((run, process))
                self._close(run, process.returncode)

    def kill(self) -> None:
        for _, process in self._running:
            process.kill()
            process.wait()

    def _close(self, run: StudyRun, code: int) -> None:
        words = f"{run.study}: {run.folder.name}"
        line = run.line() if code == 0 else None
        if line is not None:
            print(f"{words}: top-1 {line['top1']:.2%}, {line['seconds']:.0f} s", flush=True)  # noqa: T201
            if self._on_finish is not None:
                self._on_finish(run)
        elif self._stopping_since is not None:
            print(f"{words}: stopped, goes on with the next call", flush=True)  # noqa: T201
        else:
            self.failed.append(run)
            print(f"{words}: failed, see {run.log}", flush=True)  # noqa: T201


def _start(run: StudyRun, jobs: int) -> subprocess.Popen[bytes]:
    import yaml  # so that a command without PyYAML can say so

    write_atomic(run.recipe_file, yaml.safe_dump(msgspec.to_builtins(run.recipe), sort_keys=False))
    flags = [f"--{name}" for name in ("drg", "dsr") if name in run.method.terms]
    command = [sys.executable, str(_RUN), *run.options, *flags]
    command += ["--recipe", str(run.recipe_file), "--seed", str(run.seed)]
    command += ["--out", str(run.folder), "--resume"]
    threads = max(1, usable_cores() // jobs)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    with run.log.open("a") as log:
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )


def _end_with_parent() -> None:
    """In a new process: SIGTERM when the one that started it is gone, whatever ended that."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
