"""Has trackers (MLflow, Weights & Biases, Trackio) follow a run, in a process of its own.

The process reads `journal.jsonl` as TensorBoard reads its events. Training waits neither for it nor
for its server, also not at the end: lines that were not sent yet are sent after training has ended.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import msgspec

from runtime.base.errors import UserError
from runtime.model.locate import CHECKPOINT

_ROOT = Path(__file__).resolve().parents[2]
# Without the working folder in the path: wandb, for one, makes a folder of its name there.
_PROCESS = """
import sys
sys.path[0] = sys.argv.pop(1)
from training.records.tracker_process import main
main(sys.argv[1], sys.argv[2])
"""
_left: list[subprocess.Popen[bytes]] = []  # nobody waits for them


def state_file(folder: Path, name: str) -> Path:
    """Where a run keeps what the tracker has of it."""
    return folder / f"tracker-{name}.json"


def check_tracker(name: str | None) -> None:
    """Checks that a tracker can be used.

    Raises:
        UserError: if its package is not installed.
    """
    if name is None:
        return
    found = find_spec(name)
    if found is None or found.origin is None:  # a folder of that name is no package
        raise UserError(
            f"the package {name} is not installed; `pip install '.[{name}]'` in SKD Edge's folder "
            f"brings what --log {name} needs"
        )


@contextmanager
def followed(
    folder: Path, name: str | None, *, params: Mapping[str, object], say: Callable[[str], None]
) -> Iterator[None]:
    """While the block runs, a process sends the lines of the run in `folder` to a tracker.

    Args:
        folder: of the run.
        name: of the tracker; None: nothing is sent.
        params: what the run is asked for.
        say: tells the user what the process says, such as that a server cannot be reached.
    """
    if name is None:
        yield
        return
    if not (folder / CHECKPOINT).exists():  # a former run of this folder is not this one
        state_file(folder, name).unlink(missing_ok=True)
    with _log_file(folder, name).open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROCESS, str(_ROOT), name, str(folder.absolute())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the training
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )
    _left.append(process)
    assert process.stdin is not None
    said: list[str] = []
    threading.Thread(target=_hand_on, args=(process, said, say), daemon=True).start()
    with suppress(BrokenPipeError):  # it has ended, and its log says why
        process.stdin.write(msgspec.json.encode(params) + b"\n")
        process.stdin.flush()
    try:
        yield
    finally:
        with suppress(BrokenPipeError):
            process.stdin.close()  # the sign that training has ended, which a kill gives, too
        if not said and not state_file(folder, name).exists():
            say(f"{name} has not answered yet; {_log_file(folder, name)} tells how it ends")


def _log_file(folder: Path, name: str) -> Path:
    return folder / f"tracker-{name}.log"


def _hand_on(process: subprocess.Popen[bytes], said: list[str], say: Callable[[str], None]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            said.append(line.decode(errors="replace").rstrip("\n"))
            say(said[-1])
