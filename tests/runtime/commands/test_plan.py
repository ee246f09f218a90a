"""`python -m runtime plan`: how many servers answer a load in time."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

pytestmark = pytest.mark.slow

Run = Callable[..., CompletedProcess[str]]
SHORT = ("--seconds", "0.4")


def test_a_plan_has_servers_cores_and_what_it_rests_on(
    command: Run, toy_bundle: Path, tmp_path: Path
) -> None:
    pytest.importorskip("uvicorn", reason="needs the extra `serve`")
    asked = ("--rate", "20000", "--p99", "10000", "--json", *SHORT)
    finished = command("-m", "runtime", "plan", toy_bundle, *asked, cwd=tmp_path, check=True)
    (line,) = finished.stdout.splitlines()
    plan = json.loads(line)
    capacity = plan["capacity_per_second"]
    assert plan["replicas"] >= 20000 / capacity
    assert plan["cores"] == plan["replicas"] * plan["cores_of_replica"]
    assert plan["gpus"] == 0
    assert plan["predicted"]["p99_ms"] <= 10000
    assert len(plan["service"]["network_ms"]) == 8
    assert [each["load"] for each in plan["loads"]] == pytest.approx([0.5, 0.8])
    for each in plan["loads"]:
        assert each["rate"] == pytest.approx(each["load"] * capacity, rel=0.01)
        assert 0 < each["p50_ms"] < each["p99_ms"]


def test_a_time_that_no_number_of_servers_keeps_ends_with_3(
    command: Run, toy_bundle: Path, tmp_path: Path
) -> None:
    pytest.importorskip("uvicorn", reason="needs the extra `serve`")
    asked = ("--rate", "10", "--p99", "0.01", *SHORT)
    finished = command("-m", "runtime", "plan", toy_bundle, *asked, cwd=tmp_path)
    assert finished.returncode == 3
    assert finished.stdout.startswith("measuring the server on this machine with ")
    assert finished.stderr.startswith("error: no number of servers answers 99 % within 0.01 ms")
    assert len(finished.stderr.splitlines()) == 1


def servers_below(group: int) -> list[int]:
    """The processes `python -m runtime serve` of a process group."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"serve" in words and os.getpgid(int(folder.name)) == group:
                found.append(int(folder.name))
    return found


def has_client(process: int) -> bool:
    """Whether one of its TCP connections is established (state 01 in /proc/net/tcp)."""
    own = set()
    for file in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            own.add(str(file.readlink()))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return any(row[3] == "01" and f"socket:[{row[9]}]" in own for row in rows)


@pytest.mark.parametrize("moment", ["it starts", "it is measured"])
def test_sigterm_ends_the_server_that_is_measured(
    toy_bundle: Path, tmp_path: Path, moment: str
) -> None:
    pytest.importorskip("uvicorn", reason="needs the extra `serve`")
    words = [sys.executable, "-m", "runtime", "plan", str(toy_bundle), "--seconds", "60"]
    with subprocess.Popen(
        [*words, "--rate", "5", "--p99", "50"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as started:
        try:
            while not (servers := servers_below(started.pid)):
                assert started.poll() is None
                time.sleep(0.02)
            while moment == "it is measured" and not has_client(servers[0]):
                assert started.poll() is None
                time.sleep(0.02)
            started.terminate()
            _, told = started.communicate(timeout=20)
            assert (started.returncode, told) == (1, "error: interrupted\n")
            assert servers_below(started.pid) == []
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--rate", "0", "--p99", "5"), "received '0', expected a number above 0"),
        (("--rate", "5"), "--p99"),
        (("--rate", "5", "--p99", "5", "--images", "empty"), "there is no picture"),
        (("--rate", "5", "--p99", "5", "--images", "nothere"), "--images nothere is no folder"),
        (("--rate", "5", "--p99", "5", "--images", "broken"), "broken/a.jpg: not a readable image"),
    ],
)
def test_a_mistake_is_one_line(
    command: Run, toy_bundle: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"no picture")
    finished = command("-m", "runtime", "plan", toy_bundle, *options, cwd=tmp_path)
    assert finished.returncode == 2
    (line,) = finished.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line
