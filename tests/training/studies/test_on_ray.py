"""Studies and searches on a real Ray cluster of two nodes, one of which is killed. `make nightly`.

Both nodes are on this machine. Ray is an extra: without it these tests are skipped.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, sleep

import pytest

ROOT = Path(__file__).resolve().parents[3]
SECOND = "second-node"
STUDENT = ["--arch", "mobilenetv2", "--width", "0.25", "--device", "cpu", "--batch-size", "8"]
RUNS = 3
# A lost node is noticed after seconds instead of after half a minute.
QUICK = {
    "RAY_worker_niceness": "0",  # else runs on a busy machine take minutes
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
# What a study is as a command; its nodes use folders of their own where the first word says so.
SCRIPT = """
import functools, sys
from runtime.base.command import run_command
from training import study, tune
from training.studies import ray_runs
apart = sys.argv.pop(1) == "apart"
ray_runs.RayRuns = functools.partial(ray_runs.RayRuns, forget_shared=apart)
run_command({"study": study, "tune": tune}[sys.argv.pop(1)].main, extra="train")
"""
STARTED: list[subprocess.Popen[str]] = []
TIMES = {"seconds", "images_per_second", "data_wait_share"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (extra ray)"),
]


def environment() -> dict[str, str]:
    return {**os.environ, **QUICK, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def head(tmp_path: Path) -> Iterator[str]:
    """The address of a cluster of one node, which has one processor."""
    folder = tempfile.mkdtemp(prefix="ray-")  # short, because sockets have paths of 107 characters
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    start_node(
        tmp_path, "--head", f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=false"
    )
    try:
        yield address
    finally:
        for process in STARTED:
            process.kill()
            process.communicate()
        STARTED.clear()
        for word in (f"--address={address}", folder, f":{port}"):
            for pid in processes(lambda words, word=word: word in words):  # type: ignore[misc]
                kill_tree(pid)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster(head: str, tmp_path: Path) -> str:
    """The address of a cluster of two nodes with a processor each."""
    start_second(tmp_path, head)
    return head


def start_second(tmp_path: Path, address: str) -> None:
    start_node(tmp_path, f"--address={address}", f"--node-name={SECOND}")


def start_node(tmp_path: Path, *words: str) -> None:
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *words]
    own_cache = {**environment(), "SKD_EDGE_CACHE": str(tmp_path / "cache")}
    own = ["--num-cpus=1", "--disable-usage-stats"]
    subprocess.run([*command, *own], env=own_cache, check=True, capture_output=True)


def processes(wanted: Callable[[str], bool]) -> list[int]:
    """The processes whose command line, with spaces, is wanted."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if int(file.parent.name) != os.getpid() and "pytest" not in words and wanted(words):
            found.append(int(file.parent.name))
    return found


def descendants(pid: int) -> list[int]:
    """The processes that `pid` has started, and those that they have. All are read anew."""
    children: dict[int, list[int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(file.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(file.parent.name))

    def below(each: int) -> list[int]:
        own = children.get(each, [])
        return [*own, *(deeper for child in own for deeper in below(child))]

    return below(pid)


def kill_tree(pid: int) -> None:
    for each in (pid, *descendants(pid)):
        try:
            os.kill(each, signal.SIGKILL)
        except ProcessLookupError:
            continue


def second_raylet() -> int:
    (pid,) = processes(lambda words: "raylet/raylet" in words and SECOND in words)
    return pid


def run_on_second(study: Path) -> Path | None:
    """Where the second node trains a run of which the study's folder has a checkpoint."""
    for pid in descendants(second_raylet()):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        except OSError:
            continue
        if "--out" in words:
            folder = Path(words[words.index("--out") + 1])
            there = study / folder.name / "checkpoint.pt"
            if there.exists() and not (folder / "result.json").exists():
                return folder
    return None


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *words],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    STARTED.append(process)
    return process


def lines_of(folder: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / "results" / "s.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


@pytest.mark.parametrize("apart", ["shared", "apart"])
def test_runs_of_a_node_that_is_killed_go_on_elsewhere(
    apart: str, head: str, tmp_path: Path, tiny_folder: Path
) -> None:
    """The driver is there before the second node, so the node that is killed is not its own.

    Ray gives a driver any node of its own machine, and a driver does not outlive its node.
    """
    words = [*STUDENT, "--data", str(tiny_folder), "--epochs", "40", "--study", "s"]
    words += ["--terms", "ce,drg,dsr", "--seeds", "1"]
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    on_ray = started(there, apart, "study", *words, "--on", f"ray://{head}", "--jobs", "2")
    end = monotonic() + 240
    folder = there / "runs" / "studies" / "s"
    while not list(folder.glob("*.log")):  # the driver has joined, and its first run is asked for
        assert on_ray.poll() is None, on_ray.communicate()
        assert monotonic() < end
        sleep(0.2)
    start_second(tmp_path, head)
    while (lost := run_on_second(folder)) is None:
        assert on_ray.poll() is None, on_ray.communicate()
        assert monotonic() < end
        sleep(0.2)
    kill_tree(second_raylet())
    assert lost.is_relative_to(tmp_path / "cache" if apart == "apart" else there / "runs")
    out, err = on_ray.communicate(timeout=300)
    assert (on_ray.returncode, err) == (0, "")
    assert f"s: {lost.name}: its node was lost; it goes on elsewhere" in out
    assert "resumed after" in (folder / f"{lost.name}.log").read_text()
    local = started(here, "shared", "study", *words)
    assert local.communicate(timeout=300)[1] == ""
    assert len(lines_of(there)) == RUNS
    assert lines_of(there) == lines_of(here)
    if apart == "apart":
        kept = {path.name for path in (tmp_path / "cache" / "ray-runs").glob("*/*/")}
        assert kept <= {lost.name}  # of the node that could not remove it


def test_a_study_that_is_stopped_leaves_checkpoints(
    cluster: str, tmp_path: Path, tiny_folder: Path
) -> None:
    words = [*STUDENT, "--data", str(tiny_folder), "--epochs", "500", "--study", "s"]
    words += ["--terms", "ce,drg", "--seeds", "1", "--on", f"ray://{cluster}"]
    study = started(tmp_path, "apart", "study", *words)
    folder = tmp_path / "runs" / "studies" / "s"
    end = monotonic() + 240
    while len(list(folder.glob("*/checkpoint.pt"))) < 2:
        assert study.poll() is None, study.communicate()
        assert monotonic() < end
        sleep(0.2)
    study.terminate()
    out, err = study.communicate(timeout=150)
    assert (study.returncode, err) == (1, "error: interrupted\n")
    assert out.count("stopped, goes on with the next call") == 2
    for log in folder.glob("*.log"):  # each has had the time to write its checkpoint
        assert "goes on with --resume" in log.read_text().splitlines()[-1]


def test_a_search_reads_journals_that_are_fetched_from_its_nodes(
    cluster: str, tmp_path: Path, tiny_folder: Path
) -> None:
    words = [*STUDENT, "--data", str(tiny_folder), "--epochs", "9", "--trials", "3"]
    search = started(tmp_path, "apart", "tune", *words, "--on", f"ray://{cluster}")
    end = monotonic() + 200
    early = False
    while search.poll() is None:
        assert monotonic() < end
        journals = tmp_path.glob("runs/tune/*/*/journal.jsonl")
        early |= any(not (each.parent / "result.json").exists() for each in journals)
        sleep(0.2)
    out, err = search.communicate()
    assert (search.returncode, err) == (0, "")
    assert early
    assert "best    runs/tune/" in out
    assert len(list(tmp_path.glob("runs/tune/*/*/result.json"))) == 3


def test_a_node_without_the_data_is_told(cluster: str, tmp_path: Path, tiny_folder: Path) -> None:
    hidden = tmp_path / "hidden"
    shutil.copytree(tiny_folder, hidden)
    # The nodes look after this machine has read the data: then they are gone.
    gone = f"""
import shutil
from training.studies import ray_runs
checked = ray_runs.RayRuns._check_nodes
def check(self, run):
    shutil.rmtree({str(hidden)!r})
    return checked(self, run)
ray_runs.RayRuns._check_nodes = check
"""
    command = [sys.executable, "-c", gone + SCRIPT, "shared", "study", *STUDENT]
    words = ["--data", str(hidden), "--on", f"ray://{cluster}"]
    done = subprocess.run(
        [*command, *words], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: the Ray node ")
    assert f"has no {hidden}; put the data there" in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_is_no_cluster_is_told_promptly(tmp_path: Path, tiny_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        taken = silent.getsockname()[1]
        for port in (1, taken):
            began = monotonic()
            words = ["--data", str(tiny_folder), "--on", f"ray://127.0.0.1:{port}"]
            refused = started(tmp_path, "shared", "study", *STUDENT, *words)
            err = refused.communicate(timeout=100)[1]
            assert refused.returncode == 2
            assert err.count("\n") == 1
            assert f"127.0.0.1:{port}" in err
            assert monotonic() - began < 60
