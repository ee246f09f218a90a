"""When a part is over, nothing that it began goes on beside the next one."""

import os
import sys
from pathlib import Path
from time import monotonic, sleep

import pytest
from part_process import run_limited, words

# Starts a process that writes its number, in a session of its own where that is asked for.
BEGIN = """
import subprocess, sys, time
own = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", own], start_new_session={session})
while not (os := __import__("os")).path.exists("pid") or not open("pid").read():
    time.sleep(0.05)
time.sleep({then})
"""


@pytest.mark.parametrize("session", [False, True])
@pytest.mark.parametrize(("then", "code"), [(0, 0), (60, None)])
def test_nothing_that_a_part_began_outlives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: bool, then: int, code: int | None
) -> None:
    monkeypatch.chdir(tmp_path)
    begin = BEGIN.format(session=session, then=then)
    start = monotonic()
    found = run_limited([sys.executable, "-c", begin], tmp_path / "logs/part.log", seconds=5)
    assert found == code, (tmp_path / "logs/part.log").read_text()
    assert monotonic() - start < 30
    assert not _goes_on(int((tmp_path / "pid").read_text()))


def test_other_processes_go_on(tmp_path: Path) -> None:
    run_limited([sys.executable, "-c", "print('said')"], tmp_path / "log", seconds=30)
    sleep(0.1)
    assert _goes_on(os.getpid())
    assert (tmp_path / "log").read_text() == "said\n"


def test_a_command_is_written_down_without_the_path_of_its_python() -> None:
    assert words((sys.executable, "-m", "pytest")) == "python -m pytest"


def _goes_on(number: int) -> bool:
    """Whether the process is there and has not ended; nobody may have waited for it yet."""
    stat = Path(f"/proc/{number}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
