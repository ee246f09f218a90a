"""Runs the missing runs of studies, several at a time, wherever their place starts them."""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

from runtime.base.command import fail
from training.engine.interruption import StopRequest, stop_request
from training.records.journal import JOURNAL
from training.studies.local_runs import LocalRuns
from training.studies.place import Place
from training.studies.study_run import StudyRun

_POLL_SECONDS = 0.1
_FAILED = 1
_ERROR = "error: "  # begins the last line of a command that failed
# Enough for one step and a checkpoint. A run that compiles for longer has no checkpoint to lose.
GRACE_SECONDS = 120


class PoolResult(NamedTuple):
    """Runs that failed, and runs that are not finished because the time was over."""

    failed: list[StudyRun]
    unfinished: list[StudyRun]


def run_all(
    runs: Sequence[StudyRun],
    *,
    jobs: int,
    minutes: float | None = None,
    pause: Path | None = None,
    in_step: bool = False,
    unseen: Collection[str] = (),
    on_start: Callable[[StudyRun], None] | None = None,
    on_finish: Callable[[StudyRun], None] | None = None,
    place: Place | None = None,
) -> PoolResult:
    """Runs all `runs` that are not finished, in their order.

    When the time is over, the runs that have begun write checkpoints and end. The same happens
    after Ctrl-C, SIGTERM and SIGHUP.

    Args:
        runs: finished or not.
        jobs: how many run at a time.
        minutes: after which no run begins or goes on; None: no limit.
        pause: while this file is there, no run begins, and those that have begun stand still.
        in_step: whether runs that go on at the same time stay at the same epoch: one that is ahead
            stands still. So the runs of a pair can be compared wherever the time ends.
        unseen: the studies of whose runs no figure is printed.
        on_start: called with each run before it begins, or goes on.
        on_finish: called with each run that finishes.
        place: where the runs go on; None: on this machine.

    Raises:
        UserError: if a run cannot go on at the place.
        KeyboardInterrupt: after Ctrl-C, SIGTERM or SIGHUP, when all runs have ended.
    """
    missing = [run for run in runs if run.line() is None]
    if len(missing) < len(runs):
        print(f"{len(runs) - len(missing)} of {len(runs)} runs are finished", flush=True)  # noqa: T201
    with stop_request() as stop:
        pool = _Pool(
            missing,
            jobs=jobs,
            minutes=minutes,
            stop=stop,
            pause=pause,
            in_step=in_step,
            unseen=unseen,
            on_start=on_start,
            on_finish=on_finish,
            place=place or LocalRuns(),
        )
        try:
            while pool.busy:
                pool.advance()
                sleep(_POLL_SECONDS)
        finally:
            pool.kill()
    if stop.requested:
        raise KeyboardInterrupt
    unfinished = [run for run in missing if run.line() is None and run not in pool.failed]
    return PoolResult(pool.failed, unfinished)


def epochs_done(run: StudyRun) -> int:
    """How many epochs of the run its journal has."""
    try:
        return (run.folder / JOURNAL).read_bytes().count(b"\n")
    except OSError:
        return 0


def fail_runs(failed: Sequence[StudyRun], *, of: int) -> int:
    """Prints why the first of the failed runs failed and where all logs are; the exit code."""
    logs = ", ".join(str(run.log) for run in failed)
    said = f"\n{failed[0].log.read_text(errors='replace')}".split("\n" + _ERROR)
    why = f" ({said[-1].splitlines()[0]})" if len(said) > 1 else ""
    return fail(f"{len(failed)} of {of} runs failed{why}: see {logs}", _FAILED)


class _Pool:
    """Runs that have not begun, and those that have."""

    def __init__(
        self,
        runs: Sequence[StudyRun],
        *,
        jobs: int,
        minutes: float | None,
        stop: StopRequest,
        pause: Path | None,
        in_step: bool,
        unseen: Collection[str],
        on_start: Callable[[StudyRun], None] | None,
        on_finish: Callable[[StudyRun], None] | None,
        place: Place,
    ) -> None:
        self.failed: list[StudyRun] = []
        self._waiting = deque(runs)
        self._running: list[StudyRun] = []
        self._place = place
        self._jobs = jobs
        self._deadline = float("inf") if minutes is None else monotonic() + 60 * minutes
        self._stop = stop
        self._stopping_since: float | None = None
        self._unseen = unseen
        self._on_start = on_start
        self._on_finish = on_finish
        self._pause = pause
        self._in_step = in_step
        self._standing = False
        self._ahead: set[Path] = set()  # the folders of the runs that wait for the others

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    def advance(self) -> None:
        """Stops and starts runs where it is time to, and notes which have ended."""
        if self._stopping_since is not None:
            if monotonic() - self._stopping_since > GRACE_SECONDS:
                self.kill()
        elif self._stop.requested or monotonic() >= self._deadline:
            self._stopping_since = monotonic()
            self._waiting.clear()
            self._ahead.clear()  # whoever is to write a checkpoint must not stand still
            self._stand_still(standing=False)
            for run in self._running:
                self._place.stop(run)
        else:
            if self._in_step and not self._standing:
                self._keep_in_step()
            self._stand_still(standing=self._pause is not None and self._pause.exists())
        while self._waiting and len(self._running) < self._jobs and not self._standing:
            run = self._waiting.popleft()
            if self._on_start is not None:
                self._on_start(run)
            self._place.start(run, self._jobs)
            self._running.append(run)
        for run in list(self._running):
            if (code := self._place.poll(run)) is not None:
                self._running.remove(run)
                self._close(run, code)

    def _stand_still(self, *, standing: bool) -> None:
        if standing == self._standing:
            return
        self._standing = standing
        word = f"the runs stand still until {self._pause} is removed" if standing else "going on"
        print(word, flush=True)  # noqa: T201
        for run in self._running:
            # A run that waits for the others of its pair does not go on with them.
            self._place.stand(run, still=standing or run.folder in self._ahead)

    def _keep_in_step(self) -> None:
        done = [(run, epochs_done(run)) for run in self._running]
        least = min((epochs for _, epochs in done), default=0)
        for run, epochs in done:
            ahead = epochs > least
            if ahead and run.folder not in self._ahead:
                self._ahead.add(run.folder)
                self._place.stand(run, still=True)
            elif not ahead and run.folder in self._ahead:
                self._ahead.remove(run.folder)
                self._place.stand(run, still=False)

    def kill(self) -> None:
        for run in self._running:
            self._place.stop(run, at_once=True)

    def _close(self, run: StudyRun, code: int) -> None:
        name = f"{run.study}: {run.folder.name}"
        line = run.line() if code == 0 else None
        if line is not None:
            figure = "" if run.study in self._unseen else f"top-1 {line['top1']:.2%}, "
            print(f"{name}: {figure}{line['seconds']:.0f} s", flush=True)  # noqa: T201
            if self._on_finish is not None:
                self._on_finish(run)
        elif self._stopping_since is not None:
            print(f"{name}: stopped, goes on with the next call", flush=True)  # noqa: T201
        else:
            self.failed.append(run)
            print(f"{name}: failed, see {run.log}", flush=True)  # noqa: T201
