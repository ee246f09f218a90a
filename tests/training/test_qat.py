"""The command `training/qat.py`: a run whose int8 file has learned ranges."""

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from export.trained_run import read_run
from runtime.base.errors import UserError
from runtime.model.holdout import KeptApart, validation_bytes
from training import qat, run, train_int8
from training.engine import build_quantized, nearest_epoch
from training.engine.interruption import InterruptedRunError
from training.records.checkpoint import load_trained, read_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def finished(
    tiny_folder: Path, tiny_recipe_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished run of `--drg --dsr`. Read only."""
    folder = tmp_path_factory.mktemp("qat") / "source"
    arguments = [
        *("--arch", "mobilenetv2", "--width", "0.25", "--drg", "--dsr", "--device", "cpu"),
        *("--data", str(tiny_folder), "--recipe", str(tiny_recipe_file), "--out", str(folder)),
    ]
    assert run.main(arguments) == 0
    return folder


@pytest.fixture(scope="module")
def learned(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command makes of it. Read only."""
    folder = tmp_path_factory.mktemp("learned") / "learned"
    assert qat.main([str(finished), "--out", str(folder), "--device", "cpu"]) == 0
    return folder


def test_the_run_says_what_was_learned_and_from_what(finished: Path, learned: Path) -> None:
    result, source = (
        json.loads((folder / "result.json").read_text()) for folder in (learned, finished)
    )
    trained = load_trained(finished)
    assert (result["method"], source.get("method")) == ("qat", None)
    found = result["learned"]["int8"]
    assert (found["source"], found["source_sha256"], found["epochs"]) == (
        finished.name,
        trained.checkpoint_sha256,
        2,
    )
    assert found["agreement"] > 0.6
    assert found["chosen_epoch"] in (0, 1, 2)
    assert found["divergence"] <= found["start_divergence"]
    assert result["top1"] == source["top1"]
    lines = [json.loads(line) for line in (learned / "journal.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert {"self_kl", "head_kl"} <= lines[0].keys()
    assert lines[0]["head_kl"] > 0  # the run had DRG's head


def test_the_float32_student_is_the_runs_own_and_the_int8_student_is_another(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here each epoch is nearer than the last. By itself it depends on how a processor rounds."""
    nearer = iter((3.0, 2.0, 1.0))
    monkeypatch.setattr(nearest_epoch, "divergence", lambda _exact, _found: next(nearer))
    folder = tmp_path / "learned"
    assert qat.main([str(finished), "--out", str(folder), "--device", "cpu"]) == 0
    source, found = load_trained(finished), load_trained(folder)
    weights, own = source.student.state_dict(), found.student.state_dict()
    assert all(weights[name].equal(own[name]) for name in weights)
    int8 = found.learned["int8"]
    assert int8.epochs == 2
    assert "normalised" in int8.ranges
    assert not weights["features.0.0.weight"].equal(
        int8.student.state_dict()["features.0.0.weight"]
    )
    assert source.learned == {}


def test_epochs_that_lead_away_from_float32_leave_the_start(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(build_quantized, "_RATE", 0.05)
    folder = tmp_path / "away"
    assert qat.main([str(finished), "--out", str(folder), "--device", "cpu"]) == 0
    found = json.loads((folder / "result.json").read_text())["learned"]["int8"]
    assert found["chosen_epoch"] == 0
    assert found["divergence"] == found["start_divergence"]
    assert "epoch 0 of 2 is kept" in capsys.readouterr().out
    trained = load_trained(folder)
    exact, kept = trained.student.state_dict(), trained.learned["int8"]
    assert all(exact[name].equal(value) for name, value in kept.student.state_dict().items())
    assert kept.chosen == 0


def test_a_training_of_other_steps_does_not_go_on(
    finished: Path, learned: Path, tmp_path: Path
) -> None:
    older = tmp_path / "older"
    shutil.copytree(learned, older)
    path = older / "checkpoint.pt"
    checkpoint = read_checkpoint(path)
    found = {**checkpoint.learned["int8"], "finished": False}
    del found["nearest"]
    save_checkpoint(path, replace(checkpoint, learned={"int8": found}))
    with pytest.raises(UserError, match="of an older version"):
        qat.main([str(finished), "--out", str(older), "--resume", "--device", "cpu"])


def test_an_interrupted_run_goes_on_to_the_same_result(
    finished: Path, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopping(train_int8.Trainer):
        """Stops after the first epoch, as if the process had been killed."""

        def _close_epoch(self) -> object:
            line = super()._close_epoch()
            if self._epoch == 1:
                self._save(self._saved)
                raise InterruptedRunError("interrupted")
            return line

        def train(self, folder: Path, save: object, progress: object, stop: object) -> None:
            self._saved = save
            super().train(folder, save, progress, stop)

    arguments = [str(finished), "--out", str(tmp_path / "again"), "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr(train_int8, "Trainer", Stopping)
        assert qat.main(arguments) == 1
    assert not (tmp_path / "again" / "result.json").exists()
    assert load_trained(tmp_path / "again").learned == {}
    assert qat.main([*arguments, "--resume"]) == 0
    first, second = (
        read_checkpoint(folder / "checkpoint.pt").learned["int8"]
        for folder in (learned, tmp_path / "again")
    )
    assert first["ranges"] == second["ranges"]
    assert all(torch.equal(first["student"][k], second["student"][k]) for k in first["student"])


def test_a_run_that_was_stopped_while_its_last_files_were_written_goes_on(
    finished: Path, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a full disk: its checkpoint says that it is finished, and it has no result."""
    arguments = [str(finished), "--out", str(tmp_path / "again"), "--device", "cpu"]

    def no_room(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(train_int8, "plot_curves", no_room)
        with pytest.raises(OSError, match="No space left"):
            qat.main(arguments)
    assert read_checkpoint(tmp_path / "again" / "checkpoint.pt").finished
    assert qat.main([*arguments, "--resume"]) == 0
    first, second = (
        json.loads((folder / "result.json").read_text())["learned"]["int8"]
        for folder in (learned, tmp_path / "again")
    )
    measured = ("source", "chosen_epoch", "divergence", "start_divergence", "top1", "agreement")
    assert {name: first[name] for name in measured} == {name: second[name] for name in measured}
    # What only resuming needs is not kept in a run that has its result.
    sizes = [(folder / "checkpoint.pt").stat().st_size for folder in (learned, tmp_path / "again")]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)


def test_one_whose_result_is_gone_is_one_line(
    finished: Path, learned: Path, tmp_path: Path
) -> None:
    stopped = tmp_path / "stopped"
    shutil.copytree(learned, stopped)
    (stopped / "result.json").unlink()
    with pytest.raises(
        UserError,
        match=r"has lost its result.json, and its checkpoint cannot write it again: train without",
    ):
        qat.main([str(finished), "--out", str(stopped), "--resume", "--device", "cpu"])


@pytest.mark.parametrize(
    ("content", "words"), [("{", "not valid JSON"), ('{"arch": ""}', "not that of")]
)
def test_a_damaged_result_names_the_command_that_makes_another(
    learned: Path, tmp_path: Path, content: str, words: str
) -> None:
    damaged = shutil.copytree(learned, tmp_path / "damaged")
    (damaged / "result.json").write_text(content)
    with pytest.raises(UserError, match=words) as error:
        read_run(damaged, lambda _text: None)
    assert "train it again with `python training/qat.py ...`, without --resume" in str(error.value)
    assert "\n" not in str(error.value)


def test_it_goes_on_from_a_run_whose_weights_were_averaged(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source's last weights have no place in the student for int8."""
    averaged = shutil.copytree(finished, tmp_path / "averaged")
    path = averaged / "checkpoint.pt"
    checkpoint = read_checkpoint(path)
    recipe = msgspec.structs.replace(checkpoint.plan.recipe, ema_decay=0.9)
    plan = msgspec.structs.replace(checkpoint.plan, recipe=recipe)
    save_checkpoint(path, replace(checkpoint, plan=plan, raw_student=dict(checkpoint.student)))
    arguments = [str(averaged), "--epochs", "1", "--out", str(tmp_path / "again")]

    def no_room(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(train_int8, "plot_curves", no_room)
        with pytest.raises(OSError, match="No space left"):
            qat.main([*arguments, "--device", "cpu"])
    assert qat.main([*arguments, "--device", "cpu", "--resume"]) == 0
    assert (tmp_path / "again" / "result.json").is_file()


def test_no_image_of_a_threshold_judges_an_epoch(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shutil.copytree(finished, tmp_path / "source")
    (source / "validation.npz").unlink(missing_ok=True)
    asked = []

    def asking(_train: np.ndarray, choosing: np.ndarray) -> None:
        asked.append(choosing)
        raise UserError("asked")

    monkeypatch.setattr(train_int8, "judging_rows", asking)
    for rows in ((), (0, 2)):
        if rows:
            kept = asked[0][[*rows]]
            none = np.zeros(0)
            images = np.zeros((len(kept), 2, 2, 3), np.uint8)
            found = KeptApart(images, np.zeros(len(kept), int), kept, none, none > 0)
            (source / "validation.npz").write_bytes(validation_bytes(found))
        with pytest.raises(UserError, match="asked"):
            qat.main([str(source), "--out", str(tmp_path / "new"), "--device", "cpu"])
    assert len(asked[0]) > 2
    assert asked[1].tolist() == np.delete(asked[0], [0, 2]).tolist()


def test_the_run_may_be_the_current_folder(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished, tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    assert qat.main([".", "--epochs", "1", "--device", "cpu"]) == 0
    assert (tmp_path / "mine-int8" / "result.json").is_file()


def test_a_second_kind_keeps_the_first(learned: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    arguments = [str(learned), "--kind", "int8-cpu", "--epochs", "1", "--out", str(both)]
    assert qat.main([*arguments, "--device", "cpu"]) == 0
    found = load_trained(both).learned
    assert {kind: each.epochs for kind, each in found.items()} == {"int8": 2, "int8-cpu": 1}
    assert set(json.loads((both / "result.json").read_text())["learned"]) == {"int8", "int8-cpu"}


def test_the_new_run_is_named_after_the_old_one(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, tmp_path / "runs" / "mine")
    (tmp_path / "runs" / "latest").symlink_to("mine")
    assert qat.main(["runs/latest", "--epochs", "1", "--device", "cpu"]) == 0
    assert (tmp_path / "runs" / "latest").readlink() == Path("mine-int8")
    said = capsys.readouterr().out
    assert "next  python export/run.py runs/mine-int8 --precision int8" in said


def test_resuming_a_finished_one_does_nothing(learned: Path, finished: Path, capsys) -> None:
    before = (learned / "checkpoint.pt").read_bytes()
    assert qat.main([str(finished), "--out", str(learned), "--resume", "--device", "cpu"]) == 0
    assert "is finished: nothing to resume" in capsys.readouterr().out
    assert (learned / "checkpoint.pt").read_bytes() == before


def test_another_run_is_not_resumed(learned: Path, finished: Path) -> None:
    arguments = [str(finished), "--out", str(learned), "--resume", "--device", "cpu"]
    with pytest.raises(UserError, match=r"holds another run.*epochs: 2, now 3"):
        qat.main([*arguments, "--epochs", "3"])
    with pytest.raises(UserError, match="no learned ranges of int8-cpu"):
        qat.main([*arguments, "--kind", "int8-cpu"])


def test_training_does_not_go_on_with_it(learned: Path, tiny_options: list[str]) -> None:
    with pytest.raises(UserError, match=r"was made by `python training/qat.py`"):
        run.main([*tiny_options, "--out", str(learned), "--resume"])


def test_mistakes_are_one_line(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; expected a run folder"):
        qat.main([str(tmp_path / "none")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"is not a run: it has no checkpoint\.pt"):
        qat.main([str(tmp_path / "empty")])
    unfinished = tmp_path / "unfinished"
    shutil.copytree(finished, unfinished)
    (unfinished / "result.json").unlink()
    with pytest.raises(UserError, match="is not finished"):
        qat.main([str(unfinished), "--device", "cpu"])


def test_a_run_without_its_data_is_one_line(finished: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(finished, moved)
    checkpoint = read_checkpoint(moved / "checkpoint.pt")
    plan = msgspec.structs.replace(checkpoint.plan, data_argument=str(tmp_path / "gone"))
    save_checkpoint(moved / "checkpoint.pt", replace(checkpoint, plan=plan))
    with pytest.raises(UserError, match=r"which is not there; name the place .* with --data"):
        qat.main([str(moved), "--device", "cpu"])
