"""Runs on a cluster that is simulated: nodes that are lost, that lack something, that are small.

The real one is in test_on_ray.py.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from runtime.base.command import VERSION, CommandParser
from runtime.base.errors import UserError
from training.config.options import Options
from training.config.recipe import load_recipe
from training.studies import local_runs, ray_cluster, ray_runs
from training.studies.place_options import add_place_options, open_place, print_commands
from training.studies.pool import run_all
from training.studies.ray_cluster import Node, share_of_run, usual_jobs
from training.studies.ray_node import NodeRun, Order, lacking
from training.studies.ray_runs import RayRuns
from training.studies.study_methods import METHODS
from training.studies.study_run import StudyRun

# A training: three epochs, of which those that the folder has are not repeated.
TRAINING = """
import json, os, pathlib, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
folder.mkdir(exist_ok=True)
journal, recipe = folder / "journal.jsonl", sys.argv[sys.argv.index("--recipe") + 1]
done = journal.read_text().count("\\n") if journal.exists() else 0
print("begins after", done, flush=True)
print("GPUs:", os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
for epoch in range(done, 3):
    time.sleep(SECONDS)
    while epoch and pathlib.Path("hold", folder.name).exists():  # after its first epoch
        time.sleep(0.01)
    with journal.open("a") as file:
        file.write(json.dumps({"epoch": epoch + 1}) + "\\n")
import yaml
recipe = yaml.safe_load(open(recipe))
result = {"top1": 0.5, "top5": 1.0, "ece": 0.1, "seconds": 1.0, "recipe": recipe}
(folder / "result.json").write_text(json.dumps(result))
"""


class RayError(Exception):
    pass


class RayActorError(RayError):
    pass


class ActorUnavailableError(RayActorError):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class GetTimeoutError(RayError):
    pass


class SimulatedActor:
    def __init__(self, order: Order) -> None:
        self._object, self.lost = NodeRun(order), False

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: object) -> Callable[[], object]:
            if self.lost:
                return raising(RayActorError("the node is lost"))
            try:
                answer = getattr(self._object, name)(*arguments)
            except Exception as error:
                return raising(RayTaskError(error))
            return lambda: answer

        return SimpleNamespace(remote=call)

    def die(self) -> None:
        """As its node, with the run's process."""
        self.lost = True
        process = self._object._process
        if process is not None:
            process.kill()
            process.wait()


def raising(error: Exception) -> Callable[[], object]:
    def get() -> object:
        raise error

    return get


class SimulatedRay:
    """What RayRuns calls of Ray; an answer is a function."""

    exceptions = SimpleNamespace(
        RayError=RayError,
        RayActorError=RayActorError,
        ActorUnavailableError=ActorUnavailableError,
        RayTaskError=RayTaskError,
        GetTimeoutError=GetTimeoutError,
    )

    def __init__(self, *cpus: int) -> None:
        self.actors: list[SimulatedActor] = []
        self.asked: list[dict[str, object]] = []
        self._cpus = cpus

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": f"n{i}", "NodeManagerAddress": f"10.0.0.{i}", "Alive": True}
            | {"Resources": {"CPU": float(cpus)}}
            for i, cpus in enumerate(self._cpus)
        ]

    def remote(self, **asked: object) -> Callable[[Any], Any]:
        def decorate(what: Any) -> Any:
            def call(*arguments: Any) -> Any:
                if what is not NodeRun:
                    return lambda: what(*arguments)
                self.asked.append(asked)
                self.actors.append(SimulatedActor(*arguments))
                return self.actors[-1]

            return SimpleNamespace(remote=call)

        return decorate

    def wait(self, questions: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return questions, []

    def get(self, question: Callable[[], object], timeout: float | None = None) -> object:
        return question()

    def kill(self, actor: SimulatedActor) -> None:
        actor.die()


@pytest.fixture
def ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedRay:
    simulated = SimulatedRay(2, 2)
    strategies = ModuleType("ray.util.scheduling_strategies")
    strategies.NodeAffinitySchedulingStrategy = lambda key, soft: key  # type: ignore[attr-defined]
    for name in ("ray", "ray.util"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, strategies.__name__, strategies)
    monkeypatch.setattr(ray_runs, "join_cluster", lambda _address: simulated)
    monkeypatch.setattr(ray_runs, "_LOOK_SECONDS", 0.02)
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.chdir(tmp_path)
    trains(tmp_path, monkeypatch)
    return simulated


def trains(folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.05) -> None:
    script = folder / "training.py"
    script.write_text(TRAINING.replace("SECONDS", str(seconds)))
    monkeypatch.setattr(local_runs, "_RUN_COMMAND", script)


def runs_in(folder: Path, *names: str) -> list[StudyRun]:
    folder.mkdir(exist_ok=True)
    recipe, shared = load_recipe("digits"), Options(arch="a")
    return [
        StudyRun(METHODS[name], 0, "s", METHODS[name].recipe_on(recipe), folder, shared)
        for name in names
    ]


@pytest.mark.parametrize("apart", [False, True])
def test_a_run_whose_node_is_lost_goes_on_from_what_it_has(
    apart: bool, ray: SimulatedRay, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = runs_in(Path("study"), "ce", "drg", "dsr")
    finished: list[str] = []
    place = RayRuns("", device="cpu", forget_shared=apart)
    assert place.usual_jobs == 2
    first_poll = place.poll
    hold = tmp_path / "hold" / runs[1].folder.name
    hold.parent.mkdir()
    hold.touch()

    def poll(run: StudyRun) -> int | None:
        code = first_poll(run)
        if hold.exists() and (runs[1].folder / "journal.jsonl").exists():
            ray.actors[1].die()
            hold.unlink()
        return code

    place.poll = poll  # type: ignore[method-assign]
    outcome = run_all(
        runs, jobs=2, place=place, on_finish=lambda run: finished.append(run.method.name)
    )
    assert outcome.failed == outcome.unfinished == []
    assert sorted(finished) == ["ce", "drg", "dsr"]
    assert len(ray.actors) == 4  # one of them twice
    assert "s: digits-a-drg-s0: its node was lost; it goes on elsewhere" in capsys.readouterr().out
    begun = [line for line in runs[1].log.read_text().splitlines() if "begins" in line]
    assert begun[0] == "begins after 0"
    assert int(begun[-1].split()[-1]) >= 1
    for run in runs:
        assert "GPUs: 0" not in run.log.read_text()  # without a share of one it sees none
        journal = (run.folder / "journal.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in journal] == [1, 2, 3]
    assert {(asked["num_cpus"], asked["num_gpus"]) for asked in ray.asked} == {(2, 0.0)}
    left = list((tmp_path / "cache").glob("ray-runs/*/*"))
    assert left == []


def test_a_run_that_ends_its_nodes_is_given_up(
    ray: SimulatedRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trains(tmp_path, monkeypatch, seconds=30)
    (run,) = runs_in(tmp_path / "study", "ce")
    place = RayRuns("", device="cpu")
    place.start(run, 1)
    while (code := place.poll(run)) is None:
        ray.actors[-1].die()
    assert code == 1
    assert len(ray.actors) == 6
    assert "error: its node was lost 6 times without an epoch" in run.log.read_text()


def test_a_run_is_stopped_and_stands_still(
    ray: SimulatedRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trains(tmp_path, monkeypatch, seconds=30)
    (run,) = runs_in(tmp_path / "study", "ce")
    place = RayRuns("", device="cpu")
    place.start(run, 1)
    process = None
    while process is None:
        assert place.poll(run) is None
        process = ray.actors[0]._object._process
    for still, states in ((True, "T"), (False, "SR")):
        place.stand(run, still=still)
        wait_for(lambda states=states: state_of(process.pid) in states)  # type: ignore[misc]
    place.stand(run, still=True)
    place.stop(run)
    wait_for(lambda: place.poll(run) is not None)
    assert place.poll(run) == -signal.SIGTERM


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_for(condition: Callable[[], bool]) -> None:
    end = monotonic() + 30
    while not condition():
        assert monotonic() < end
        sleep(0.02)


def test_a_node_that_lacks_something_is_told(ray: SimulatedRay, tmp_path: Path) -> None:
    (run,) = runs_in(tmp_path / "study", "ce")
    there = Options(arch="a", data=str(tmp_path))
    assert lacking(there, VERSION) is None
    gone = Options(arch="a", data=str(tmp_path / "gone"))
    assert str(lacking(gone, VERSION)).startswith(f"has no {tmp_path / 'gone'}; put the data")
    root = Options(arch="a", data_root=tmp_path / "gone")
    assert lacking(root, VERSION) == f"has no folder {tmp_path / 'gone'} (--data-root)"
    assert str(lacking(there, "0.0.1")).startswith(f"has SKD Edge {VERSION}, and this")
    own = StudyRun(run.method, 0, "s", run.recipe, run.parent, Options(arch="a", data="gone"))
    with pytest.raises(UserError, match=r"^the Ray node 10\.0\.0\.0 has no /.*/gone; put the data"):
        RayRuns("", device="cpu").start(own, 1)
    assert ray.actors == []


def test_shares_of_a_cluster() -> None:
    def nodes(*sizes: tuple[int, int]) -> list[Node]:
        return [Node(str(i), "", *size) for i, size in enumerate(sizes)]

    cpus = nodes((8, 0), (4, 0), (0, 0))
    assert [share_of_run(cpus, jobs=jobs, device="auto")[0] for jobs in (1, 2, 3, 6, 12, 99)] == [
        *(8, 4, 4, 2, 1, 1)
    ]
    assert usual_jobs(cpus, device="auto") == 2
    gpus = nodes((8, 2), (8, 0), (16, 2))
    assert usual_jobs(gpus, device="auto") == 4
    assert usual_jobs(gpus, device="cpu") == 3
    assert share_of_run(gpus, jobs=4, device="auto") == (4, 1.0)
    assert share_of_run(gpus, jobs=8, device="cuda") == (2, 0.5)
    assert share_of_run(gpus, jobs=3, device="cpu") == (8, 0.0)
    with pytest.raises(UserError, match="no node of the Ray cluster has a GPU"):
        share_of_run(cpus, jobs=1, device="cuda")
    with pytest.raises(UserError, match="the Ray cluster has no CPUs"):
        share_of_run(nodes((0, 1)), jobs=1, device="auto")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ray", ""),
        ("ray://10.0.0.5:6379", "10.0.0.5:6379"),
        ("ray://head.cluster:6379/", "head.cluster:6379"),
        ("ray://[fd00::2]:6379", "[fd00::2]:6379"),
        *((wrong, None) for wrong in ("rya", "ray://", "ray://h", "ray://h:0", "ray://h:65536")),
        *((wrong, None) for wrong in ("ray:h:1", "http://h:1", "ray://a b:1", "slurm")),
    ],
)
def test_addresses(text: str, address: str | None) -> None:
    parser = CommandParser(prog="", description=None)
    add_place_options(parser, noun="runs")
    if address is not None:
        assert parser.parse_args(["--on", text]).on == address
        return
    with pytest.raises(UserError, match=r"received .*, expected ray, or ray://HOST:PORT"):
        parser.parse_args(["--on", text])


def test_a_cluster_that_does_not_answer_is_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    monkeypatch.setattr(ray_cluster, "_JOIN_SECONDS", 0.2)
    monkeypatch.setattr(ray_cluster, "_JOIN", "import time; time.sleep(60)")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match=f"what is at {address} is no Ray cluster that answers"):
            open_place(address, device="cpu")
    with pytest.raises(UserError, match=rf"no Ray cluster is at {address} \(Connection refused\)"):
        open_place(address, device="cpu")
    monkeypatch.setattr(ray_cluster, "_JOIN", "raise SystemExit('the version differs')")
    monkeypatch.setattr(ray_cluster, "_JOIN_SECONDS", 60)
    with pytest.raises(UserError, match="this machine belongs to no Ray cluster"):
        open_place("", device="cpu")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"package ray is not installed; `pip install '\.\[ray\]'`"):
        open_place("", device="cpu")


def test_printed_commands_can_be_pasted_anywhere(
    ray: SimulatedRay, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = Path("a study's $HOME & more")
    runs = runs_in(odd, "ce", "drg")
    print_commands(runs)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    (tmp_path / "elsewhere").mkdir()
    for line in lines:
        subprocess.run(["bash", "-c", line], cwd=tmp_path / "elsewhere", check=True, env=os.environ)
    assert [run.line()["method"] for run in runs] == ["ce", "drg"]  # type: ignore[index]
