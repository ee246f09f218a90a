"""Trackers: a process that follows the journal, and nothing that training waits for."""

import json
import sqlite3
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from runtime.base.errors import UserError
from training import run, study
from training.config.options import TRACKERS
from training.records import tracker
from training.records import tracker_process as process
from training.records.tracker import followed
from training.records.tracker_sinks import SINKS

# A package `trackio` that writes down what it is called with.
STAND_IN = """
import json, pathlib
calls = pathlib.Path(__file__).with_name("calls.jsonl")

class Run:
    def log(self, figures, step):
        note(step=step, **figures)

    def finish(self):
        note(finish=True)

def init(project, name, resume, config):
    BEHAVIOUR
    note(project=project, name=name, resume=resume, config=config)
    return Run()

def note(**what):
    print("a package may print")
    with calls.open("a") as file:
        file.write(json.dumps(what) + "\\n")
"""


IMPORT = "import training.records.tracker_process as p\n"


def quicker(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has other times to wait."""
    text = tracker._PROCESS.replace("main(", f"{IMPORT}{change}\nmain(", 1)
    monkeypatch.setattr(tracker, "_PROCESS", text)


def line(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "loss": 1.0 / epoch, "top1": 0.5, "note": "no figure"}


def write_journal(folder: Path, epochs: int) -> None:
    lines = [json.dumps(line(epoch + 1)) + "\n" for epoch in range(epochs)]
    (folder / "journal.jsonl").write_text("".join(lines))


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str = "pass") -> Path:
    """The folder of the stand-in, from which the process imports it."""
    packages = folder / "packages"
    packages.mkdir()
    (packages / "trackio.py").write_text(STAND_IN.replace("BEHAVIOUR", behaviour))
    monkeypatch.setenv("PYTHONPATH", str(packages))
    return packages


def wait_for_answer(folder: Path, name: str) -> None:
    """Waits until the tracker is open for the run."""
    end = monotonic() + 100
    while not (folder / f"tracker-{name}.json").exists():
        assert monotonic() < end
        sleep(0.02)


def end_of_process() -> int:
    return tracker._left.pop().wait(timeout=100)


def test_each_epoch_is_sent_once_also_when_a_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = stand_in(tmp_path, monkeypatch)
    folder = tmp_path / "run"
    folder.mkdir()
    said: list[str] = []
    with followed(folder, "trackio", params={"seed": 3}, say=said.append):
        write_journal(folder, 2)
        wait_for_answer(folder, "trackio")
    assert end_of_process() == 0
    (folder / "checkpoint.pt").touch()  # the run goes on
    write_journal(folder, 1)  # its second epoch was lost
    with followed(folder, "trackio", params={"seed": 3}, say=said.append):
        write_journal(folder, 3)
        (folder / "result.json").write_text('{"top1": 0.75, "epochs": 3}')
    assert end_of_process() == 0
    calls = [json.loads(text) for text in (packages / "calls.jsonl").read_text().splitlines()]
    first, *rest = calls
    assert (first["project"], first["config"]) == ("skd-edge", {"seed": 3})
    figures = [{"step": each, "loss": 1.0 / each, "top1": 0.5} for each in (1, 2, 3)]
    closed = {"finish": True}
    result = {"step": 3, "final_top1": 0.75}
    assert rest == [figures[0], figures[1], closed, first, figures[2], result, closed]
    assert said == []
    # A new run of that folder is another one for the tracker.
    (folder / "checkpoint.pt").unlink()
    with followed(folder, "trackio", params={}, say=said.append):
        wait_for_answer(folder, "trackio")
    assert end_of_process() == 0
    calls = [json.loads(text) for text in (packages / "calls.jsonl").read_text().splitlines()]
    names = [call["name"] for call in calls if "name" in call]
    assert len(names) == 3
    assert len(set(names)) == 2


def test_a_training_is_sent_with_its_recipe_and_result(
    tmp_path: Path, tiny_options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = stand_in(tmp_path, monkeypatch)
    monkeypatch.syspath_prepend(str(packages))
    folder = tmp_path / "run"
    assert run.main([*tiny_options, "--out", str(folder), "--log", "trackio"]) == 0
    assert end_of_process() == 0
    calls = [json.loads(text) for text in (packages / "calls.jsonl").read_text().splitlines()]
    opened, *epochs, final, closed = calls
    config = opened["config"]
    assert (config["data"], config["terms"], config["seed"]) == ("tiny", "drg+dsr", 0)
    assert (config["epochs"], config["learning_rate"]) == (2, 0.05)
    journal = [json.loads(text) for text in (folder / "journal.jsonl").read_text().splitlines()]
    assert [(each["step"], each["loss"], each["top1"]) for each in epochs] == [
        (each["epoch"], each["loss"], each["top1"]) for each in journal
    ]
    result = json.loads((folder / "result.json").read_text())
    assert final["final_top1"] == result["top1"]
    assert closed == {"finish": True}
    assert "--log" not in result["command"]


def test_training_does_not_wait_for_a_tracker_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "import time; time.sleep(1000)")
    quicker("p._LAST_SECONDS = 1.0", monkeypatch)
    began = monotonic()
    said: list[str] = []
    with followed(tmp_path, "trackio", params={}, say=said.append):
        write_journal(tmp_path, 2)
    assert monotonic() - began < 5
    log = tmp_path / "tracker-trackio.log"
    assert said == [f"trackio has not answered yet; {log} tells how it ends"]
    assert end_of_process() == 1  # it does not stay for ever either
    assert "did not take the last lines in time" in log.read_text()


def test_a_server_that_cannot_be_reached_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "raise ConnectionError('nobody at this address')")
    quicker("p._RETRY_SECONDS = p._POLL_SECONDS = 0.1", monkeypatch)
    said: list[str] = []
    with followed(tmp_path, "trackio", params={}, say=said.append):
        write_journal(tmp_path, 2)
        end = monotonic() + 60
        log = tmp_path / "tracker-trackio.log"
        while log.read_text().count("nobody at this address") < 3:
            assert monotonic() < end
    assert end_of_process() == 0
    assert said == ["trackio cannot be reached (nobody at this address); training goes on"]


def test_what_a_server_has_missed_is_sent_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []

    class Unsteady:
        run = "r"

        def __init__(self, name: str, run: str | None, params: object) -> None:
            pass

        def log(self, figures: object, *, step: int) -> None:
            if step == 2 and steps.count(1) == 1 and not (tmp_path / "back").exists():
                raise ConnectionError
            steps.append(step)

    monkeypatch.setattr(process, "SINKS", {"trackio": Unsteady})
    write_journal(tmp_path, 3)
    follower = process.Follower("trackio", tmp_path, {})
    with pytest.raises(ConnectionError):
        follower.send()
    (tmp_path / "back").touch()
    follower.forget_sink()
    follower.send()
    assert steps == [1, 2, 3]
    process.Follower("trackio", tmp_path, {}).send()  # another process of the same run
    assert steps == [1, 2, 3]


@pytest.mark.parametrize("command", [run.main, study.main], ids=["run", "study"])
def test_a_tracker_that_is_not_there_is_told_before_anything_is_trained(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracker, "find_spec", lambda _name: None)
    for name in TRACKERS:
        with pytest.raises(UserError, match=rf"package {name} is not .*'\.\[{name}\]'"):
            command(["--arch", "mobilenetv2", "--log", name])
    with pytest.raises(UserError, match="'mlfow'"):
        command(["--arch", "mobilenetv2", "--log", "mlfow"])
    assert not list(tmp_path.iterdir())


def test_trackers_are_those_that_can_be_named_and_have_an_extra() -> None:
    assert tuple(SINKS) == TRACKERS
    project = (Path(tracker._ROOT) / "pyproject.toml").read_text()
    for name in TRACKERS:
        assert f'\n{name} = ["skd-edge[train]", "{name}>=' in project


# --- the packages themselves, each in an environment of its own: `make nightly` ---


def real(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed")


def send_with(name: str, folder: Path) -> Path:
    """A run of two epochs that goes on for a third."""
    own = folder / "run"
    own.mkdir()
    for epochs in (2, 3):
        with followed(own, name, params={"seed": 3, "taps": [2, 3]}, say=pytest.fail):
            write_journal(own, epochs)
            wait_for_answer(own, name)
            if epochs == 3:
                (own / "result.json").write_text('{"top1": 0.75}')
        assert end_of_process() == 0, (own / f"tracker-{name}.log").read_text()
        (own / "checkpoint.pt").touch()
    assert json.loads((own / f"tracker-{name}.json").read_text())["epoch"] == 3
    return own


@real("mlflow")
@pytest.mark.slow
def test_mlflow_has_the_run_in_a_local_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    send_with("mlflow", tmp_path)
    with sqlite3.connect(store) as database:
        assert database.execute("select name, status from runs").fetchall() == [("run", "FINISHED")]
        losses = "select step, value from metrics where key = 'loss' order by step"
        assert database.execute(losses).fetchall() == [(1, 1.0), (2, 0.5), (3, 1.0 / 3)]
        final = "select step, value from metrics where key = 'final_top1'"
        assert database.execute(final).fetchall() == [(3, 0.75)]
        params = dict(database.execute("select key, value from params").fetchall())
        assert params == {"seed": "3", "taps": "[2, 3]"}
    database.close()


@real("mlflow")
@pytest.mark.slow
def test_mlflow_without_a_server_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with followed(tmp_path, "mlflow", params={}, say=lambda _said: None):
        write_journal(tmp_path, 2)
    assert end_of_process() == 0
    assert "127.0.0.1" in (tmp_path / "tracker-mlflow.log").read_text()


@real("wandb")
@pytest.mark.slow
def test_wandb_has_the_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    own = send_with("wandb", tmp_path)
    name = json.loads((own / "tracker-wandb.json").read_text())["run"]
    files = sorted((tmp_path / "wandb").glob(f"offline-run-*/run-{name}.wandb"))
    assert files
    whole = b"".join(file.read_bytes() for file in files)
    for word in (b"loss", b"final_top1", b"skd-edge"):
        assert word in whole


@real("trackio")
@pytest.mark.slow
def test_trackio_has_the_run_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    own = send_with("trackio", tmp_path)
    name = json.loads((own / "tracker-trackio.json").read_text())["run"]
    read = """
import json, sys, trackio
found = trackio.Api().runs("skd-edge")
print(json.dumps([run.name for run in found]))
"""
    done = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [name]
    with sqlite3.connect(tmp_path / "store" / "skd-edge.db") as database:
        logged = database.execute("select step, metrics from metrics order by step, id").fetchall()
    database.close()
    losses = [(step, json.loads(text)["loss"]) for step, text in logged if b"loss" in text]
    assert losses == [(1, 1.0), (2, 0.5), (3, 1.0 / 3)]
    assert json.loads(logged[-1][1]) == {"final_top1": 0.75}
