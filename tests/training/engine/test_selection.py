"""The deployed epoch and the end of training follow the validation images, never the test split."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stop_after import StopAfter

from runtime.base.errors import UserError
from runtime.model.holdout import read_validation
from training import finish, run
from training.config.plan import Plan
from training.data import Dataset
from training.data.splits import check_selection
from training.engine.interruption import InterruptedRunError, StopRequest
from training.engine.selection import Scores, Selection, scores_of
from training.engine.trainer import Trainer
from training.records.checkpoint import (
    Checkpoint,
    load_trained,
    read_checkpoint,
    save_checkpoint,
)
from training.records.journal import Progress

MakePlan = Callable[..., Plan]
# At a constant rate an epoch does not depend on how many there are. At this low one the running
# statistics lag behind the weights: the student answers all images alike for epochs, and its
# cross-entropy on images that it was not trained on grows. So the best epoch is an early one.
EARLY = {
    "epochs": 4,
    "batch_size": 12,
    "learning_rate": 0.02,
    "momentum": 0.5,
    "schedule": "step",
    "milestones": (),
}
STEPS = 3  # an epoch


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time of a run as small as these."""
    monkeypatch.setattr(finish, "_plot", lambda *_: None)
    monkeypatch.setattr(finish, "_report", lambda *_, **__: None)


def train(
    plan: Plan, data: Dataset, folder: Path, *, former: Checkpoint | None = None, steps: int = 10**6
) -> Checkpoint:
    folder.mkdir(exist_ok=True)
    path = folder / "checkpoint.pt"
    trainer = Trainer(plan, data, device=torch.device("cpu"))
    if former is not None:
        trainer.restore(former)

    def save(checkpoint: Checkpoint) -> None:
        save_checkpoint(path, checkpoint)

    progress = Progress(epochs=plan.recipe.epochs, quiet=True)
    try:
        trainer.train(folder, save, progress, StopAfter(steps))
    except InterruptedRunError:
        return read_checkpoint(path)
    finish.finish_run(trainer, folder, save, command="python training/run.py", error_sheet=False)
    return read_checkpoint(path)


def result_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def journal_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


def best_line(lines: list[dict[str, Any]]) -> int:
    """The first of the epochs with the highest accuracy and then the lowest cross-entropy."""
    scores = [(line["validation_top1"], -line["validation_cross_entropy"]) for line in lines]
    return 1 + scores.index(max(scores))


def recipe(**keys: object) -> Any:
    from training.config.recipe import recipe_from_values

    values = {"epochs": 9, "batch_size": 8, "optimizer": "sgd", "learning_rate": 0.1}
    return recipe_from_values({**values, **keys}, source="test")


def test_scores_are_accuracy_and_cross_entropy_in_nats() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], dtype=np.float32))
    found = scores_of(logits, np.array([0, 2]))
    assert found.top1 == 0.5
    assert found.cross_entropy == pytest.approx(-(np.log(0.5) + np.log(0.1)) / 2, rel=1e-6)


def test_accuracy_decides_then_cross_entropy_and_then_the_earlier_epoch() -> None:
    selection = Selection(recipe(select="best"))
    judged = [(0.5, 1.0), (0.5, 0.9), (0.5, 0.9), (0.6, 2.0), (0.5, 0.1)]
    found = [selection.judge(epoch, Scores(*pair)) for epoch, pair in enumerate(judged, start=1)]
    assert found == [True, True, False, True, False]
    assert (selection.best_epoch, selection.deployed_epoch(5)) == (4, 4)
    assert Selection(recipe()).deployed_epoch(5) == 5


def test_patience_counts_epochs_without_a_gain() -> None:
    selection, ended = Selection(recipe(patience=2)), []
    for epoch, top1 in enumerate((0.1, 0.3, 0.2, 0.4, 0.4, 0.1), start=1):
        selection.judge(epoch, Scores(top1, 1.0))
        ended.append(selection.ends(epoch))
    assert ended == [False, False, False, False, False, True]
    without = Selection(recipe(select="best"))
    without.judge(1, Scores(0.5, 1.0))
    assert not without.ends(1000)


@pytest.fixture(scope="module")
def early(
    tiny_data: Dataset, make_plan: MakePlan, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run that selects the best of four epochs, which is not the last one."""
    folder = tmp_path_factory.mktemp("early")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finish, "_plot", lambda *_: None)
        patch.setattr(finish, "_report", lambda *_, **__: None)
        train(make_plan("ce", select="best", **EARLY), tiny_data, folder)
    return folder


def test_the_deployed_student_is_that_of_the_best_epoch(
    early: Path, tiny_data: Dataset, make_plan: MakePlan, tmp_path: Path
) -> None:
    lines, result = journal_of(early), result_of(early)
    best = best_line(lines)
    assert best < len(lines) == result["epochs_trained"] == 4
    assert (result["best_epoch"], result["selected_by"]) == (best, "validation")
    assert result["validation_top1"] == lines[best - 1]["validation_top1"]
    assert result["top1"] == lines[best - 1]["top1"]
    shorter = make_plan("ce", **(EARLY | {"epochs": best}))
    plain = train(shorter, tiny_data, tmp_path)
    deployed = load_trained(early).student.state_dict()
    assert all(torch.equal(plain.student[name], value) for name, value in deployed.items())
    short = result_of(tmp_path)
    assert (short["best_epoch"], short["selected_by"], short["epochs_trained"]) == (
        best,
        "last",
        best,
    )
    assert "validation_top1" not in journal_of(tmp_path)[0]


def test_test_labels_change_no_choice(
    tiny_data: Dataset,
    make_plan: MakePlan,
    tmp_path: Path,
    assert_equal_trees: Callable[[object, object], None],
) -> None:
    """And validation labels are what is judged."""
    plan = make_plan("drg", ema_decay=0.5, select="best", patience=2, **EARLY)
    data = replace(tiny_data, validation_images=12)  # the user's own, which are the last ones
    own = train(plan, data, tmp_path / "own")
    other = train(plan, replace(data, test_labels=np.zeros(21, int)), tmp_path / "other")
    assert own.selection is not None
    assert own.selection["epoch"] < 4
    assert own.selection == other.selection
    assert_equal_trees(other.student, own.student)
    chosen = ("best_epoch", "selected_by", "epochs_trained", "temperature", "validation_top1")
    first, second = result_of(tmp_path / "own"), result_of(tmp_path / "other")
    assert [first[name] for name in chosen] == [second[name] for name in chosen]
    assert first["top1"] != second["top1"]

    labels = data.train_labels.copy()
    labels[-12:] = 0
    relabelled = replace(data, train_labels=labels)
    judged = train(plan, relabelled, tmp_path / "judged", steps=STEPS + 1)
    assert judged.selection is not None
    right, wrong = journal_of(tmp_path / "own")[0], judged.history[0]
    assert right["validation_top1"] != wrong["validation_top1"]
    assert right["cross_entropy"] == wrong["cross_entropy"]


@pytest.mark.parametrize(
    ("keys", "stops"), [({"ema_decay": 0.5}, [5]), ({"patience": 2, "dsr_teacher": "ema"}, [3, 6])]
)
def test_the_best_student_survives_interruptions_to_the_bit(
    tiny_data: Dataset,
    make_plan: MakePlan,
    tmp_path: Path,
    keys: dict[str, object],
    stops: list[int],
    assert_equal_trees: Callable[[object, object], None],
) -> None:
    plan = make_plan("dsr", select="best", **keys, **EARLY)
    undisturbed = train(plan, tiny_data, tmp_path / "undisturbed")
    former = None
    for steps in stops:
        former = train(plan, tiny_data, tmp_path / "resumed", former=former, steps=steps)
        assert not former.finished
    resumed = train(plan, tiny_data, tmp_path / "resumed", former=former)
    assert_equal_trees(vars(resumed), vars(undisturbed))
    first, second = (result_of(tmp_path / name) for name in ("undisturbed", "resumed"))
    varying = {"seconds", "images_per_second"}
    assert {k: v for k, v in first.items() if k not in varying} == {
        k: v for k, v in second.items() if k not in varying
    }


def test_a_run_that_was_killed_before_its_result_ends_the_same(
    early: Path,
    tiny_data: Dataset,
    make_plan: MakePlan,
    tmp_path: Path,
    assert_equal_trees: Callable[[object, object], None],
) -> None:
    """Its checkpoint already deploys the best student, after which no epoch may be trained."""
    finished = read_checkpoint(early / "checkpoint.pt")
    plan = make_plan("ce", select="best", **EARLY)
    again = train(plan, tiny_data, tmp_path, former=finished)
    assert_equal_trees(vars(again), vars(finished))
    assert result_of(tmp_path)["top1"] == result_of(early)["top1"]


def test_an_interrupted_run_deploys_the_best_so_far(
    early: Path, tiny_data: Dataset, make_plan: MakePlan, tmp_path: Path
) -> None:
    best = result_of(early)["best_epoch"]
    plan = make_plan("ce", select="best", **EARLY)
    left = train(plan, tiny_data, tmp_path, steps=best * (STEPS + 1) + 1)
    assert (left.epoch, left.step) == (best, 1)
    deployed = load_trained(tmp_path).student.state_dict()
    expected = load_trained(early).student.state_dict()
    assert all(torch.equal(deployed[name], value) for name, value in expected.items())
    assert not torch.equal(left.student["classifier.1.weight"], deployed["classifier.1.weight"])


def test_a_checkpoint_keeps_the_best_student_once(
    early: Path, tiny_data: Dataset, make_plan: MakePlan, tmp_path: Path
) -> None:
    finished = read_checkpoint(early / "checkpoint.pt")
    assert finished.selection is not None
    assert finished.selection["student"] is None
    plan = make_plan("ce", select="best", **EARLY)
    sizes = []

    def save(checkpoint: Checkpoint) -> None:
        save_checkpoint(tmp_path / "checkpoint.pt", checkpoint)
        assert checkpoint.selection is not None
        at_best = checkpoint.selection["epoch"] == checkpoint.epoch
        assert (checkpoint.selection["student"] is None) == at_best
        sizes.append((at_best, (tmp_path / "checkpoint.pt").stat().st_size))

    trainer = Trainer(plan, tiny_data, device=torch.device("cpu"))
    trainer.train(tmp_path, save, Progress(epochs=4, quiet=True), StopRequest())
    weights = sum(value.nbytes for value in finished.student.values())
    small, large = (max(size for best, size in sizes if best == kind) for kind in (True, False))
    assert small + weights <= large <= small + 2 * weights


def test_a_checkpoint_from_before_the_choice_goes_on(
    tiny_data: Dataset, make_plan: MakePlan, tmp_path: Path
) -> None:
    train(make_plan("ce"), tiny_data, tmp_path, steps=2)
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del content["selection"], content["plan"]["recipe"]["select"]
    del content["plan"]["recipe"]["patience"]
    torch.save(content, tmp_path / "checkpoint.pt")
    former = read_checkpoint(tmp_path / "checkpoint.pt")
    assert former.plan == make_plan("ce")
    assert train(make_plan("ce"), tiny_data, tmp_path, former=former).finished


@pytest.mark.parametrize("keys", [{"select": "best"}, {"patience": 3}])
def test_no_validation_image_is_a_mistake(
    tiny_data: Dataset, keys: dict[str, object], tiny_options: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"validation_fraction 0 holds out none of 48") as info:
        check_selection(recipe(**keys), tiny_data)
    assert "\n" not in str(info.value)
    # A share of each class that rounds to none is none, too; the user's own split is enough.
    with pytest.raises(UserError, match=r"0.01 holds out none"):
        check_selection(recipe(validation_fraction=0.01, **keys), tiny_data)
    check_selection(recipe(**keys), replace(tiny_data, validation_images=5))
    check_selection(recipe(), tiny_data)

    file = tmp_path / "recipe.yaml"
    lines = {"epochs": 1, "batch_size": 8, "optimizer": "sgd", "learning_rate": 0.1, **keys}
    file.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    options = [*tiny_options, "--recipe", str(file), "--out", str(tmp_path / "run")]
    with pytest.raises(UserError, match=r"no validation image"):
        run.main(options)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="session")
def shared_data(tiny_data: Dataset) -> Dataset:
    """`tiny_data` with enough held out images for two uses: 30 are trained on, 96 are held out."""
    rows = np.concatenate([np.arange(30), np.tile(np.arange(48), 2)])
    labels = tiny_data.train_labels[rows].copy()
    labels[-96::9] = (labels[-96::9] + 1) % 3  # some answers are wrong
    return replace(
        tiny_data,
        train_images=tiny_data.train_images[rows],
        train_labels=labels,
        validation_images=96,
    )


def test_images_that_are_kept_apart_choose_nothing_and_are_in_the_run(
    shared_data: Dataset, make_plan: MakePlan, tmp_path: Path
) -> None:
    plan = make_plan("ce", select="best", **(EARLY | {"epochs": 2}))
    own = train(plan, shared_data, tmp_path / "own")
    result = result_of(tmp_path / "own")
    assert (result["validation_images"], result["threshold_images"]) == (96, 48)
    kept = read_validation(tmp_path / "own")
    assert kept is not None
    assert len(kept.labels) == len(kept.choosing_right) == 48
    assert kept.rows.min() >= 30
    np.testing.assert_array_equal(kept.images, shared_data.train_images[kept.rows])
    np.testing.assert_array_equal(kept.labels, shared_data.train_labels[kept.rows])
    assert result["validation_top1"] == kept.choosing_right.mean()
    assert (
        journal_of(tmp_path / "own")[result["best_epoch"] - 1]["validation_top1"]
        == (result["validation_top1"])
    )

    images = shared_data.train_images.copy()
    images[kept.rows] = 255 - images[kept.rows]
    other = train(plan, replace(shared_data, train_images=images), tmp_path / "other")
    assert (own.selection, own.temperature) == (other.selection, other.temperature)
    again = read_validation(tmp_path / "other")
    assert again is not None
    np.testing.assert_array_equal(again.choosing_confidence, kept.choosing_confidence)
    np.testing.assert_array_equal(again.images, 255 - kept.images)


def test_a_run_of_an_older_version_goes_on_with_all_of_its_images(
    shared_data: Dataset, make_plan: MakePlan, tmp_path: Path
) -> None:
    """They have chosen an epoch already, so no bound would be valid."""
    plan = make_plan("ce", select="best", **(EARLY | {"epochs": 2}))
    former = train(plan, shared_data, tmp_path, steps=STEPS + 1)
    assert former.selection is not None
    assert former.selection.pop("images") == 48
    train(plan, shared_data, tmp_path, former=former)
    assert result_of(tmp_path)["threshold_images"] == 0
    assert read_validation(tmp_path) is None
