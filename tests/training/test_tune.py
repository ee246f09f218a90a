"""`training/tune.py` as its users call it: killed, called again, and what it leaves behind."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import sleep

import pytest

from runtime.base.errors import UserError
from training import tune
from training.config.command_words import stated_command
from training.config.options import Options
from training.config.recipe import load_recipe
from training.tuning.search_space import Space, ends_of
from training.tuning.trial_runs import SearchSettings, run_of_trial

ROOT = Path(__file__).resolve().parents[2]
STUDENT = ["--arch", "mobilenetv2", "--width", "0.25", "--image-size", "16"]


@pytest.fixture
def space(tmp_path: Path) -> Path:
    file = tmp_path / "space.yaml"
    file.write_text(
        "learning_rate: {low: 0.01, high: 0.2, log: true}\nlabel_smoothing: [0.0, 0.1]\n"
    )
    return file


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_and_leaves_a_recipe(
    tmp_path: Path, tiny_folder: Path, space: Path
) -> None:
    own = ["--epochs", "3", "--batch-size", "8", "--trials", "2", "--seed", "1"]
    words = [*STUDENT, "--data", str(tiny_folder), "--space", str(space), *own]
    command = [sys.executable, str(ROOT / "training" / "tune.py"), *words, "--jobs", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    while not list(tmp_path.glob("runs/tune/*/*/journal.jsonl")):
        assert first.poll() is None
        sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (folder,) = tmp_path.glob("runs/tune/*/")
    runs = sorted(path.parent for path in folder.glob("*/result.json"))
    assert [path.name.rpartition("-trial-")[2] for path in runs] == ["0000-s1", "0001-s1"]
    results = [json.loads((run / "result.json").read_bytes()) for run in runs]
    assert all(result["validation_images"] > 0 for result in results)
    best = max(result["validation_top1"] for result in results)
    assert f"validation top-1 {best:.2%})" in done.stdout
    assert (folder / "search.png").exists()
    # What it says to do next can be done.
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("next ")]
    _, _, script, *rest = shlex.split(line)
    assert script == "training/run.py"
    recipe = load_recipe(rest[rest.index("--recipe") + 1].replace("runs/", f"{tmp_path}/runs/"))
    assert recipe.epochs == 3
    assert recipe.learning_rate in [result["recipe"]["learning_rate"] for result in results]
    next_command = [sys.executable, str(ROOT / script), *rest, "--epochs", "1"]
    subprocess.run(next_command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    # Another search is not mixed with this one.
    other = [*command, "--max-macs", "1e9"]
    done = subprocess.run(other, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "holds another search (its max_macs differ)" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--trials", "0"], "--trials"),
        (["--space", "nothing.yaml"], r"nothing\.yaml cannot be read"),
        (["--space", "fodler"], "space 'fodler' is unknown"),
        (["--max-macs", "-1"], "--max-macs"),
        (["--max-ms", "fast"], "--max-ms"),
        (["--width", "7"], "width 7 is out of range"),
        (["--recipe", "nothing"], "recipe 'nothing' is unknown"),
        (["--set", "drg_wieght=1"], "unknown key 'drg_wieght'"),
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says):
        tune.main([*STUDENT, *words])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [[], ["--no-drg"], ["--no-drg", "--no-dsr"], ["--drg"]])
def test_the_stated_command_asks_for_the_same_search(words: list[str]) -> None:
    parser = tune._parser()
    asked = parser.parse_args([*STUDENT, *words])
    _, script, *stated = shlex.split(stated_command("training/tune.py", vars(asked), parser))
    assert script == "training/tune.py"
    assert parser.parse_args(stated) == asked


@pytest.fixture
def planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path
) -> Callable[..., tuple[Space, SearchSettings]]:
    """Plans a search on 48 training images, of which trials hold out a fifth: 3 of 16 a class."""
    monkeypatch.chdir(tmp_path)

    def plan(*words: str) -> tuple[Space, SearchSettings]:
        return tune._planned(
            tune._parser().parse_args([*STUDENT, "--data", str(tiny_folder), *words])
        )

    return plan


def test_the_default_batch_fits_what_trials_train_on(
    planned: Callable[..., tuple[Space, SearchSettings]],
) -> None:
    """The recipe for folders holds out a twentieth, and a batch of 45 would be too large."""
    _, settings = planned()
    assert settings.recipe.batch_size == 39
    trial = run_of_trial(0, {}, settings).recipe
    assert (trial.batch_size, trial.validation_fraction) == (39, 0.2)
    assert settings.recipe.validation_fraction == 0.05


def test_a_batch_that_no_trial_could_fill_is_told_before_any(
    planned: Callable[..., tuple[Space, SearchSettings]], tmp_path: Path
) -> None:
    says = "batch size 40 does not fit 39 training images"
    with pytest.raises(UserError, match=says):
        planned("--batch-size", "40")
    (tmp_path / "space.yaml").write_text("batch_size: [8, 40]")
    with pytest.raises(UserError, match=says):
        planned("--space", "space.yaml", "--batch-size", "8")
    (tmp_path / "space.yaml").write_text("batch_size: [8, 16]")
    space, _ = planned("--space", "space.yaml")  # no trial has the recipe's batch size of 128
    assert ends_of(space["batch_size"]) == (8, 16)
    assert not (tmp_path / "runs").exists()


def test_a_search_does_not_go_on_with_pictures_that_were_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shared = Options(arch="mobilenetv2")
    settings = SearchSettings(
        recipe=load_recipe("digits"),
        final=load_recipe("digits"),
        shared=shared,
        seed=0,
        folder=tmp_path,
        drg=True,
        dsr=True,
        has_validation=False,
        classes=10,
        image_size=32,
        data_digest="0",
        content_digest="1",
    )
    options = tune._parser().parse_args(STUDENT)
    tune._keep_facts(settings, {}, options)
    tune._keep_facts(settings, {}, options)
    changed = replace(settings, content_digest="2")
    assert run_of_trial(0, {}, changed).content_digest == "2"
    with pytest.raises(UserError, match=r"holds another search \(its pictures differ\)"):
        tune._keep_facts(changed, {}, options)
    # Older versions kept the digest of some pictures alone: it goes on, and keeps that of all.
    facts = json.loads((tmp_path / "search.json").read_bytes())
    del facts["pictures"]
    (tmp_path / "search.json").write_text(json.dumps(facts))
    tune._keep_facts(settings, {}, options)
    with pytest.raises(UserError, match="its pictures differ"):
        tune._keep_facts(changed, {}, options)


@pytest.mark.parametrize(
    ("words", "fit"),
    [
        ([], "crop"),
        (["--fit", "letterbox"], "letterbox"),
        (["--set", "fit=stretch"], "stretch"),
    ],
)
def test_the_data_are_read_with_the_fit_that_the_trials_have(
    words: list[str], fit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []

    def load(_data: str, **how: object) -> None:
        read.append(how["fit"])
        raise UserError("enough")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("training.data.load.load_dataset", load)
    with pytest.raises(UserError, match="enough"):
        tune.main([*STUDENT, *words])
    assert read == [fit]
