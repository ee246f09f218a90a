"""Starts a run of a study as a process of this machine.

Each process has a session of its own, so that Ctrl-C reaches only the process that starts runs. It
then asks each run once to stop: a run that gets a second signal ends without its last checkpoint.
If the process that started it is killed, Linux asks the run to stop.
"""

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from runtime.backends.gpu import VISIBLE_DEVICES, visible_gpus
from runtime.base.files import write_atomic
from runtime.base.resources import usable_cores
from training.config.command_words import command_line
from training.config.options import Options
from training.studies.study_run import StudyRun

_RUN_COMMAND = Path(__file__).resolve().parents[1] / "run.py"
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_LOWEST_PRIORITY = 19
_LIBC = ctypes.CDLL(None)  # loaded here, because a child may load nothing between fork and exec


class LocalRuns:
    """The runs on this machine; a `Place` (training.studies.place)."""

    usual_jobs = 1

    def __init__(self) -> None:
        self._processes: dict[Path, subprocess.Popen[bytes]] = {}
        self._gpus: dict[Path, str | None] = {}

    def start(self, run: StudyRun, jobs: int) -> None:
        gpu = self._gpus[run.folder] = self._idlest_gpu() if run.shared.device != "cpu" else None
        self._processes[run.folder] = start_run(run, jobs, gpu=gpu)

    def poll(self, run: StudyRun) -> int | None:
        return self._processes[run.folder].poll()

    def stop(self, run: StudyRun, *, at_once: bool = False) -> None:
        process = self._processes[run.folder]
        if at_once:
            process.kill()
            process.wait()
        else:
            process.send_signal(signal.SIGCONT)
            process.terminate()

    def stand(self, run: StudyRun, *, still: bool) -> None:
        self._processes[run.folder].send_signal(signal.SIGSTOP if still else signal.SIGCONT)

    def _idlest_gpu(self) -> str | None:
        """The first of the GPUs with the fewest of our runs; None where there is no choice."""
        gpus = visible_gpus()
        going_on = [folder for folder, run in self._processes.items() if run.poll() is None]
        used = [self._gpus[folder] for folder in going_on]
        return min(gpus, key=used.count) if len(gpus) > 1 else None


def write_recipe(run: StudyRun) -> None:
    """Writes the recipe where the run reads it."""
    import yaml  # imported here, so that a command without PyYAML can say so

    write_atomic(run.recipe_file, yaml.safe_dump(msgspec.to_builtins(run.recipe), sort_keys=False))


def command_of(options: Options) -> list[str]:
    """The words of the command that trains as `options` ask."""
    return [sys.executable, str(_RUN_COMMAND), *command_line(options)]


def start_run(run: StudyRun, jobs: int, *, gpu: str | None = None) -> subprocess.Popen[bytes]:
    """Starts or goes on with `run`, with its share of the cores where `jobs` runs go on.

    `gpu` is the only one that it sees, in the words of CUDA_VISIBLE_DEVICES; None: those that we
    see.
    """
    write_recipe(run)
    threads = max(1, usable_cores() // jobs)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    if gpu is not None:
        environment[VISIBLE_DEVICES] = gpu
    with run.log.open("a") as log:
        return subprocess.Popen(
            command_of(run.options),
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=_in_new_process if sys.platform == "linux" else None,
        )


def _in_new_process() -> None:
    """Linux shall send the run SIGTERM when its parent has ended, and keep its low priority.

    Linux divides processors among sessions first (sched_autogroup), and niceness counts only within
    one. A run has a session of its own, so without this it would get as much as all else together.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    idle = os.sched_getscheduler(0) == os.SCHED_IDLE
    niceness = _LOWEST_PRIORITY if idle else os.getpriority(os.PRIO_PROCESS, 0)
    if niceness > 0:
        with suppress(OSError):  # a kernel without autogroups
            Path("/proc/self/autogroup").write_text(str(niceness))
