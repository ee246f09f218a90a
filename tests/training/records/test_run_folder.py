"""Run folders: the lock of a process that dies, and of processes that only look."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from runtime.base.errors import UserError
from runtime.model.locate import CHECKPOINT
from training.records import run_folder
from training.records.run_folder import check_out, choose_folder, exclusive

HOLD = """
import sys, time
from pathlib import Path
from training.records.run_folder import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process is training in"), exclusive(folder):
            pass
        assert choose_folder("run", out=folder, resume=False).path == tmp_path / "run-2"
        process.kill()
    assert choose_folder("run", out=folder, resume=False).path == folder
    with exclusive(folder):
        pass


def test_a_process_that_only_looks_does_not_make_a_folder_look_taken(tmp_path: Path) -> None:
    """Two processes that start at the same time both look at the same free folder."""
    folder = tmp_path / "run"
    with exclusive(folder):
        pass
    looking = FileLock(folder / ".lock", thread_local=False)
    looking.acquire()
    done = threading.Timer(0.02, looking.release)
    done.start()
    try:
        assert choose_folder("run", out=folder, resume=False).path == folder
    finally:
        done.join()


def test_a_process_that_only_looks_leaves_no_lock_behind(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    assert choose_folder("run", out=folder, resume=False).path == folder
    assert not list(folder.iterdir())


def test_out_is_checked_where_the_run_will_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that holds a run stays as it is, and the new run lies beside it."""
    checked: list[Path] = []
    monkeypatch.setattr(run_folder, "check_writable", checked.append)
    check_out(tmp_path / "run", resume=False)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / CHECKPOINT).touch()
    check_out(tmp_path / "run", resume=False)
    check_out(tmp_path / "run", resume=True)
    assert checked == [tmp_path / "run", tmp_path / "run-2"]
