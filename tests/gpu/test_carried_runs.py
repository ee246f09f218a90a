"""Runs and their lines on their way: nothing here is lost, nothing is trained twice."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import minutes
import msgspec
import pytest
import torch
from carried_runs import give_back, members_to_go_on
from minutes_record import KEPT

from export.trained_run import read_run
from training import evidence
from training.config.plan import MovedData
from training.data import load_dataset
from training.records.checkpoint import load_trained
from training.records.run_folder import IMAGES
from training.studies.evidence_plan import FULL, STUDIES, TINY, pairs_of_runs
from training.studies.local_runs import command_of, write_recipe
from training.studies.plan_state import open_table
from training.studies.pool import epochs_done
from training.studies.result_lines import merge_lines, read_lines
from training.studies.robustness_lines import measure_robustness
from training.studies.study_run import StudyRun

MANY = {"most_bytes": 60 * 2**20, "most_of_part": 15 * 2**20}


def result_of(run: StudyRun, **others: Any) -> dict[str, Any]:
    return {
        "data": run.shared.data,
        "arch": run.arch,
        "width": run.shared.width,
        "image_size": 32,
        "terms": run.method.terms,
        "seed": run.seed,
        "epochs": run.recipe.epochs,
        "top1": 0.5,
        "top5": 0.8,
        "ece": 0.1,
        "seconds": 9.0,
        "versions": {"torch": "2"},
        "recipe": msgspec.to_builtins(run.recipe),
        **others,
    }


def begin(run: StudyRun, *, epochs: int = 1, size: int = 1000) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "journal.jsonl").write_text(epochs * '{"seconds":2.0,"top1":0.4}\n')
    (run.folder / "checkpoint.pt").write_bytes(os.urandom(size))
    run.recipe_file.write_text("epochs: 1\n")
    run.log.write_text("said\n")


def finish(run: StudyRun, **others: Any) -> None:
    begin(run, epochs=run.recipe.epochs)
    (run.folder / "result.json").write_bytes(msgspec.json.encode(result_of(run, **others)))
    (run.folder / IMAGES).write_text("{}")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Goes to the folder of that name, which stands for a machine."""

    def go(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        return folder

    return go


def test_lines_that_came_back_are_added_and_none_that_is_here_is_lost(
    place: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    place("there")
    one, other = pairs_of_runs(FULL)[0]
    finish(one)
    line = one.line()
    assert line is not None
    of_no_pair = {**line, "method": "ls", "study": "main-ls"}
    merge_lines(Path("results/main.jsonl"), [line, of_no_pair])
    merge_lines(Path("results/peers.jsonl"), [{**line, "study": "peers"}])
    (sentence,) = give_back(Path("back"), FULL, **MANY)
    assert sentence.startswith(f"main/{one.folder.name}: ")  # its checkpoint is none

    place("here")
    recipe = msgspec.to_builtins(other.recipe)
    meanwhile = {**line, "method": "drg", "terms": "drg", "recipe": recipe}
    merge_lines(Path("results/main.jsonl"), [meanwhile])
    Path("results/peers.jsonl").write_text(before := '{"study":"peers"}\n')
    assert minutes.main(["keep", "../there/back"]) == 0
    kept = read_lines(Path("results/main.jsonl"))
    assert [line["method"] for line in kept] == ["drg", "ce"]
    kept[1]["top1"] = 0.1  # a line that is here stays, and the other one is told
    Path("results/main.jsonl").write_bytes(b"".join(msgspec.json.encode(x) + b"\n" for x in kept))
    assert minutes.main(["keep", "../there/back"]) == 0
    assert read_lines(Path("results/main.jsonl")) == kept
    assert "another line of ce, shufflenetv2, seed 0, which stays: top1" in capsys.readouterr().out
    assert Path("results/peers.jsonl").read_text() == before


def test_a_run_that_is_finished_is_not_trained_again_on_the_next_machine(
    place: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    home = place("home")
    finished, begun = pairs_of_runs(FULL)[0]
    finish(finished)
    begin(begun, size=50_000)
    assert minutes.main(["pack", "--to", ".gpu"]) == 0
    members = members_to_go_on(FULL)
    assert f"{finished.folder}/checkpoint.pt" not in members
    assert f"{finished.folder}/{IMAGES}" in members  # without it its line would have no interval

    place("next")
    assert minutes.main(["unpack", str(home / ".gpu/runs-1"), "--to", "in"]) == 0
    assert finished.line() is not None
    assert (begun.folder / "checkpoint.pt").stat().st_size == 50_000
    capsys.readouterr()
    assert evidence.main(["--pairs", "--dry-run"]) == 0
    assert "1 finished, 1 begun" in capsys.readouterr().out

    place("home")
    finish(begun)
    assert minutes.main(["pack", "--to", ".gpu"]) == 0
    sizes = [path.stat().st_size for path in Path(".gpu").rglob("runs.0*")]
    assert len(sizes) == 1
    assert sizes[0] < 40_000  # what was begun before does not stay
    shutil.rmtree("runs")
    assert minutes.main(["pack", "--to", ".gpu"]) == 0
    assert not list(Path(".gpu").iterdir())


def test_begun_runs_travel_in_folders_of_which_none_is_too_large(
    place: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home = place("home")
    monkeypatch.setattr(minutes, "MOST_THERE", 50_000)
    pair = pairs_of_runs(FULL)[0]
    for run in pair:
        begin(run, size=60_000)
    contents = [(run.folder / "checkpoint.pt").read_bytes() for run in pair]
    assert minutes.main(["pack", "--to", ".gpu"]) == 0
    folders = sorted(Path(".gpu").iterdir())
    assert [folder.name for folder in folders] == ["runs-1", "runs-2", "runs-3"]
    assert all(sum(f.stat().st_size for f in each.iterdir()) < 51_000 for each in folders)

    place("next")
    assert minutes.main(["unpack", str(home / ".gpu/runs-2"), "--to", "in"]) == 0
    assert "2 parts of the runs are still to come: runs.000, runs.002" in capsys.readouterr().out
    assert not Path("runs").exists()
    others = [str(home / ".gpu" / name) for name in ("runs-1", "runs-3")]
    assert minutes.main(["unpack", *others, "--to", "in"]) == 0
    assert [(run.folder / "checkpoint.pt").read_bytes() for run in pair] == contents


def test_what_does_not_fit_is_named_and_the_newest_pair_comes_back(
    place: Callable[[str], Path],
) -> None:
    place("there")
    old, new = pairs_of_runs(FULL)[:2]
    for run in (*old, *new):
        begin(run, size=20_000)
    left_out = give_back(Path("back"), FULL, most_bytes=75_000, most_of_part=30_000)
    assert [sentence.split()[0] for sentence in left_out] == [
        f"main/{run.folder.name}" for run in old
    ]
    assert "has 0.0 MB, its pair 0.1 MB, and 0.0 MB are left" in left_out[0]
    back = list(Path("back").glob("runs.0*"))
    assert len(back) <= 3
    assert sum(path.stat().st_size for path in back) <= 75_000
    place("here")
    assert minutes.main(["keep", "../there/back"]) == 0
    assert all((run.folder / "checkpoint.pt").is_file() for run in new)
    assert not any(run.folder.exists() for run in old)


def test_runs_that_came_from_home_take_no_room_from_a_pair_that_goes_on(
    place: Callable[[str], Path],
) -> None:
    """26 runs are finished at home; a pair has to fit into what comes back, as with none."""
    home = place("home")
    pairs = pairs_of_runs(FULL)
    finished, (first, second) = [run for pair in pairs[:13] for run in pair], pairs[13]
    for run in finished:
        finish(run)
        line = run.line()
        assert line is not None
        merge_lines(FULL.results / STUDIES[run.study].lines_file, [line])
        (run.folder / IMAGES).write_bytes(bytes(20_000))  # of 10,000 test images it is larger
    assert minutes.main(["pack", "--to", ".gpu"]) == 0

    place("there")
    assert minutes.main(["unpack", str(home / ".gpu/runs-1"), "--to", "in"]) == 0
    shutil.copytree(home / "results", "results")  # what this tree had when it was carried
    for run in (first, second):
        begin(run, size=50_000)
    small = {"most_bytes": 130_000, "most_of_part": 30_000}
    assert give_back(Path("back"), FULL, **small) == []
    place("later")
    assert minutes.main(["keep", "../there/back"]) == 0
    assert all((run.folder / "checkpoint.pt").is_file() for run in (first, second))
    assert not any(run.folder.exists() for run in finished)
    assert not Path("results").exists()

    # Where one of a pair alone would fit, none comes back: it could not be compared.
    place("there")
    begin(second, size=90_000)
    left_out = give_back(Path("again"), FULL, **small)
    assert [sentence.split()[0] for sentence in left_out] == [
        f"{run.study}/{run.folder.name}" for run in (first, second)
    ]
    assert not Path("again").exists()


def test_a_result_beside_an_older_checkpoint_does_not_keep_other_runs_from_coming_back(
    place: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result came from a machine whose student did not fit; the checkpoint was here before."""
    place("there")
    finished, begun = pairs_of_runs(FULL)[0]
    finish(finished)
    begin(begun)
    older = SimpleNamespace(finished=False)
    monkeypatch.setattr("training.records.checkpoint.read_checkpoint", lambda _: older)
    (sentence,) = give_back(Path("back"), FULL, **MANY)
    assert "has a result beside a checkpoint from before its end" in sentence
    place("here")
    minutes.main(["keep", "../there/back"])
    assert (begun.folder / "checkpoint.pt").is_file()


def test_a_run_that_is_further_here_stays(
    place: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    place("there")
    first, second = pairs_of_runs(FULL)[0]
    for run in (first, second):
        begin(run, epochs=3)
    give_back(Path("back"), FULL, **MANY)
    place("here")
    begin(first, epochs=5)
    begin(second, epochs=2)
    assert minutes.main(["keep", "../there/back"]) == 0
    assert (epochs_done(first), epochs_done(second)) == (5, 3)
    assert f"{first.folder} is further here and stays" in capsys.readouterr().out


def test_the_record_of_parts_is_added_to_the_one_that_is_there(
    place: Callable[[str], Path],
) -> None:
    home = place("home")
    KEPT.parent.mkdir()
    KEPT.write_text('{"part":"tests"}\n{"part":"cost"}\n')
    assert minutes.main(["pack", "--to", ".gpu"]) == 0
    place("there")
    KEPT.parent.mkdir()
    KEPT.write_text('{"part":"cost"}\n{"part":"bench"}\n')
    assert minutes.main(["unpack", str(home / ".gpu/runs-1"), "--to", "in"]) == 0
    assert [line["part"] for line in read_lines(KEPT)] == ["cost", "bench", "tests"]


def test_a_broken_checkpoint_does_not_keep_other_runs_from_coming_back(
    place: Callable[[str], Path],
) -> None:
    place("there")
    finished, begun = pairs_of_runs(FULL)[0]
    finish(finished)  # its checkpoint is no checkpoint
    begin(begun)
    (sentence,) = give_back(Path("back"), FULL, **MANY)
    assert sentence.startswith(f"main/{finished.folder.name}: ")
    place("here")
    minutes.main(["keep", "../there/back"])
    assert finished.line() is not None
    assert (begun.folder / "checkpoint.pt").is_file()


def test_lines_of_a_stand_in_of_cifar100_count_as_measured(
    place: Callable[[str], Path], arrays_of_100: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pictures go there in parts, a run on them states what it was trained on, its line counts."""
    home = place("home")
    assert minutes.main(["pack", str(arrays_of_100), "--to", ".gpu"]) == 0
    place("there")
    assert minutes.main(["unpack", str(home / ".gpu/1"), "--to", "in"]) == 0
    dataset = load_dataset(FULL.data, data_root=Path("in"), progress=False)
    for run in pairs_of_runs(FULL, data_root=Path("in"))[0]:
        finish(run, data=dataset.name, content_digest=dataset.content_digest())
    for run in pairs_of_runs(FULL, data_root=Path("in"))[0]:
        evidence._keep_line(run, FULL, trained=True)
    give_back(Path("back"), FULL, **MANY)
    place("home")
    assert minutes.main(["keep", "../there/back"]) == 0
    assert "| 2 of 42 | `python training/evidence.py --only main` |" in open_table(
        Path("results"), links=""
    )
    capsys.readouterr()
    assert minutes.main(["plan"]) == 0
    assert "ce and drg" in (said := capsys.readouterr().out)
    assert "200 of 200 epochs, top-1 40.00 and 40.00 % after 200" in said


@pytest.mark.slow
def test_the_student_of_a_finished_run_comes_back_and_is_tested_and_exported(
    place: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = place("there")
    run = pairs_of_runs(TINY)[0][1]
    assert run.method.name == "drg"  # whose checkpoint has auxiliary weights
    run.folder.parent.mkdir(parents=True)
    write_recipe(run)
    subprocess.run(command_of(run.options), check=True, stdout=subprocess.DEVNULL)
    evidence._keep_line(run, TINY, trained=True)
    assert give_back(Path("back"), TINY, **MANY) == []
    result = run.line()

    home = place("home")
    assert minutes.main(["keep", "../there/back"]) == 0
    assert run.line() == result
    whole, light = (load_trained(each / run.folder) for each in (there, home))
    weights = whole.student.state_dict()
    assert all(
        torch.equal(weights[key], value) for key, value in light.student.state_dict().items()
    )
    assert (light.temperature, light.result) == (whole.temperature, whole.result)
    sizes = [(each / run.folder / "checkpoint.pt").stat().st_size for each in (there, home)]
    assert sizes[1] < sizes[0] / 1.9
    assert read_run(run.folder, lambda _: None).kept is not None  # as `export/run.py` reads it
    monkeypatch.setattr("training.studies.corruptions.CORRUPTIONS", {})
    found = measure_robustness(
        run.folder, study="x", command="x", device="cpu", seed=0, moved=MovedData()
    )
    assert found["clean"]["top1"] == whole.result["top1"]
    (line,) = read_lines(Path("runs/tiny/main.jsonl"))
    assert (line["method"], line["top1"]) == ("drg", whole.result["top1"])
