"""Runs as a whole: resuming, divergence, checkpoints, and what a finished folder holds."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stop_after import StopAfter

from runtime.base.errors import UserError
from runtime.base.files import sha256_of
from training import finish as run_result
from training.config.plan import Plan, differences
from training.data import Dataset, load_dataset
from training.engine.interruption import InterruptedRunError, StopRequest
from training.engine.trainer import DivergedError, Trainer
from training.evaluation.calibration import Calibration
from training.evaluation.logits import logits_of
from training.finish import finish_run
from training.networks.students import build_student
from training.records.checkpoint import (
    Checkpoint,
    load_trained,
    read_checkpoint,
    save_checkpoint,
)
from training.records.journal import Progress
from training.records.run_data import load_run_dataset

CPU = torch.device("cpu")
MakePlan = Callable[..., Plan]


def run(
    plan: Plan, data: Dataset, folder: Path, *, former: Checkpoint | None = None, steps: int = 10**6
) -> Checkpoint:
    """Trains in `folder` until `steps` are over; returns the checkpoint that is left."""
    folder.mkdir(exist_ok=True)
    path = folder / "checkpoint.pt"
    trainer = Trainer(plan, data, device=CPU)
    if former is not None:
        trainer.restore(former)
    progress = Progress(epochs=plan.recipe.epochs, quiet=True)

    def save(checkpoint: Checkpoint) -> None:
        save_checkpoint(path, checkpoint)

    try:
        trainer.train(folder, save, progress, StopAfter(steps))
    except InterruptedRunError:
        return read_checkpoint(path)
    finish_run(trainer, folder, save, command="python training/run.py")
    return read_checkpoint(path)


def comparable(checkpoint: Checkpoint) -> dict[str, object]:
    names = Checkpoint.__dataclass_fields__
    return {name: getattr(checkpoint, name) for name in names}


@pytest.mark.parametrize(
    ("terms", "recipe"),
    [
        ("drg+dsr", {}),
        ("dsr", {"dsr_teacher": "ema", "optimizer": "adamw", "ema_decay": 0.9}),
        ("drg", {"mixup": 0.5, "random_erasing": 0.5, "schedule": "one-cycle"}),
    ],
)
@pytest.mark.parametrize("interrupted_after", [[2], [4], [1, 2, 1]])
def test_an_interrupted_run_ends_bit_equal(
    tiny_data: Dataset,
    make_plan: MakePlan,
    tmp_path: Path,
    terms: str,
    recipe: dict[str, object],
    interrupted_after: list[int],
    assert_equal_trees: Callable[[object, object], None],
) -> None:
    plan = make_plan(terms, arch="shufflenetv2", **recipe)
    undisturbed = run(plan, tiny_data, tmp_path / "undisturbed")
    former = None
    for steps in interrupted_after:
        torch.manual_seed(12345)  # another process starts with another state
        former = run(plan, tiny_data, tmp_path / "resumed", former=former, steps=steps)
        assert not former.finished
    assert former is not None
    resumed = run(plan, tiny_data, tmp_path / "resumed", former=former)
    assert resumed.finished
    assert_equal_trees(comparable(resumed), comparable(undisturbed))


def test_a_wish_to_stop_during_the_evaluation_is_granted_after_it(
    tiny_data: Dataset, make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the last epoch: what is left of the run is done by --resume."""
    trainer, stop, left = Trainer(make_plan("ce"), tiny_data, device=CPU), StopRequest(), []
    evaluate = trainer.test_logits

    def interrupted() -> NDArray[np.float32]:
        stop.requested = len(trainer.history) == 1
        return evaluate()

    monkeypatch.setattr(trainer, "test_logits", interrupted)
    with pytest.raises(InterruptedRunError, match=r"^interrupted in epoch 2, step 4$"):
        trainer.train(tmp_path, left.append, Progress(epochs=2, quiet=True), stop)
    assert [(checkpoint.epoch, checkpoint.step) for checkpoint in left] == [(1, 0), (2, 0)]


def test_a_resumed_epoch_s_share_of_waiting_is_of_its_own_time(
    tiny_data: Dataset, make_plan: MakePlan, tmp_path: Path
) -> None:
    former = run(make_plan(epochs=1), tiny_data, tmp_path, steps=1)
    former = replace(former, seconds=1e9)
    resumed = run(make_plan(epochs=1), tiny_data, tmp_path, former=former)
    assert resumed.history[0]["data_wait_share"] > 1e-6


@pytest.fixture(scope="module")
def finished(
    tiny_data: Dataset, make_plan: MakePlan, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run(make_plan(), tiny_data, folder)
    return folder


def test_the_run_folder_holds_the_contract(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    contract = (
        "arch data terms seed epochs top1 top5 ece params macs seconds device versions recipe"
    )
    assert set(contract.split()) <= result.keys()
    assert result["terms"] == "drg+dsr"
    assert 0 <= result["top1"] <= result["top5"] <= 1
    assert result["recipe"]["epochs"] == 2
    assert result["test_images"] == 21
    assert result["train_images"] + result["validation_images"] == 48
    assert result["params"] == sum(
        p.numel()
        for p in build_student("mobilenetv2", num_classes=3, image_size=16, width=0.25).parameters()
    )
    lines = [json.loads(line) for line in (finished / "journal.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    for line in lines:
        terms = ("cross_entropy", "auxiliary_cross_entropy", "drg", "dsr")
        assert line["loss"] == pytest.approx(sum(line[term] for term in terms))
    assert lines[-1]["top1"] == result["top1"]
    assert list(finished.glob("events.out.tfevents.*"))
    for picture in ("curves.png", "confusion.png"):
        assert (finished / picture).read_bytes().startswith(b"\x89PNG")


def test_a_student_rebuilt_from_its_checkpoint_is_bit_equal(
    finished: Path, tiny_data: Dataset, make_plan: MakePlan
) -> None:
    trained = load_trained(finished)
    trainer = Trainer(make_plan(), tiny_data, device=CPU)
    trainer.restore(read_checkpoint(finished / "checkpoint.pt"))
    rebuilt = logits_of(trained.student, tiny_data.test_images, trained.plan.input, device=CPU)
    assert np.array_equal(rebuilt, trainer.test_logits())
    assert not trained.student.training
    assert not [name for name in trained.student.state_dict() if "auxiliary" in name]
    assert trained.result["top1"] == trained.history[-1].top1
    assert trained.checkpoint_sha256 == sha256_of(finished / "checkpoint.pt")


def test_the_temperature_that_fits_is_that_of_checkpoint_and_result(
    tiny_data: Dataset, make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[int] = []

    def fit(logits: np.ndarray, labels: np.ndarray, _groups: None) -> Calibration:
        fitted.extend(labels)
        return Calibration(1.75)

    monkeypatch.setattr(run_result, "calibrate", fit)
    run(make_plan(), tiny_data, tmp_path)
    trained = load_trained(tmp_path)
    assert sorted(fitted) == sorted([0, 1, 2] * 4)  # a quarter of the 48 training images
    assert trained.temperature == trained.result["temperature"] == 1.75


def test_the_averaged_student_is_what_is_deployed(
    tiny_data: Dataset, make_plan: MakePlan, tmp_path: Path
) -> None:
    left = run(make_plan("ce", ema_decay=0.8), tiny_data, tmp_path / "run")
    assert left.raw_student is not None
    name = "features.0.0.weight"
    deployed = load_trained(tmp_path / "run").student.get_parameter(name)
    assert torch.equal(deployed, left.student[name])
    assert not torch.equal(deployed, left.raw_student[name])


def test_checkpoints_hold_plain_types_only(finished: Path) -> None:
    content = torch.load(finished / "checkpoint.pt", weights_only=True)
    plan = content["plan"]
    assert msgspec.convert(plan, Plan) == read_checkpoint(finished / "checkpoint.pt").plan
    assert type(plan) is dict


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(
    tiny_data: Dataset, make_plan: MakePlan, tmp_path: Path
) -> None:
    first = run(make_plan("drg"), tiny_data, tmp_path / "run", steps=1)
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    plan = make_plan("drg", learning_rate=1e30)
    with pytest.raises(DivergedError, match=r"not finite at step [3-4] \(epoch 1\): .*entropy nan"):
        run(plan, tiny_data, tmp_path / "run", former=first)
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("recipe", [{}, {"ema_decay": 0.5}])
@pytest.mark.parametrize("steps", [1, 10**6])
def test_answers_that_are_not_finite_are_no_checkpoint(
    tiny_data: Dataset, make_plan: MakePlan, tmp_path: Path, steps: int, recipe: dict[str, object]
) -> None:
    """The epoch's last update made the weights explode, and no loss has seen them yet."""
    changes = {"batch_size": 18, **recipe}
    good = run(make_plan("ce", **changes), tiny_data, tmp_path / "run", steps=1)
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    plan = make_plan("ce", learning_rate=1e30, **changes)
    said = r"answers are not finite at step 2 \(epoch 1\); the last good checkpoint, if there is"
    with pytest.raises(DivergedError, match=said):
        run(plan, tiny_data, tmp_path / "run", former=good, steps=steps)
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
    assert not (tmp_path / "run" / "result.json").exists()


def test_weights_that_are_not_finite_are_no_checkpoint(
    tiny_data: Dataset, make_plan: MakePlan
) -> None:
    trainer = Trainer(make_plan("drg"), tiny_data, device=CPU)
    trainer.checkpoint()
    with torch.no_grad():  # where no answer of the student shows it
        next(trainer.learner.methods.parameters()).view(-1)[0] = float("inf")
    with pytest.raises(DivergedError, match="the weights are not finite"):
        trainer.checkpoint()


def test_only_the_held_out_images_show_it(
    tiny_data: Dataset, make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is fitted then, and the last epoch's checkpoint is not called finished."""
    nan = np.full((12, 3), np.nan, dtype=np.float32)
    monkeypatch.setattr(Trainer, "validation_logits", lambda _trainer: nan)
    with pytest.raises(DivergedError, match="answers are not finite at step 8"):
        run(make_plan("ce"), tiny_data, tmp_path / "run")
    assert not read_checkpoint(tmp_path / "run" / "checkpoint.pt").finished


@pytest.mark.parametrize("size", [0, 10, 1000, -1])
def test_a_truncated_checkpoint_is_one_line(finished: Path, tmp_path: Path, size: int) -> None:
    content = (finished / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(content[:size])
    with pytest.raises(
        UserError, match=r"checkpoint.pt cannot be read.*train the run again"
    ) as info:
        load_trained(tmp_path)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("content", [{"weights": 1}, {"format": 1}, [1, 2], {"format": 99}])
def test_a_foreign_checkpoint_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="checkpoint"):
        load_trained(tmp_path)


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_trained(tmp_path)


def test_a_full_disk_leaves_the_former_checkpoint(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes((finished / "checkpoint.pt").read_bytes())

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, read_checkpoint(finished / "checkpoint.pt"))
    assert path.read_bytes() == (finished / "checkpoint.pt").read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_checkpoint_that_states_no_number_of_images_goes_on(make_plan: MakePlan) -> None:
    plan = make_plan()
    more = msgspec.structs.replace(plan, train_images=48)
    assert differences(plan, more) == []
    assert differences(more, msgspec.structs.replace(plan, train_images=96)) == [
        "train_images: 48, now 96"
    ]


def test_differences_between_plans_are_named(make_plan: MakePlan) -> None:
    plan = make_plan()
    other = msgspec.structs.replace(
        make_plan("drg", arch="shufflenetv2", epochs=9), class_names=("dark", "bright", "dotted")
    )
    assert differences(plan, plan) == []
    assert differences(plan, other) == [
        "arch: mobilenetv2, now shufflenetv2",
        "width: 0.25, now 0.5",
        "terms: drg+dsr, now drg",
        "recipe epochs: 2, now 9",
        "class 2: 'striped', now 'dotted'",
    ]
    moved = msgspec.structs.replace(plan, data_argument="/elsewhere")
    assert differences(plan, moved) == []


@pytest.mark.parametrize(
    ("terms", "former", "now", "found"),
    [
        ("ce", {"taps": [2, 3], "drg_weight": 1.0, "dsr_fade": True}, {}, []),
        ("ce", {"temperature": 2.0, "dsr_teacher": "mean", "head_width": 2.0}, {}, []),
        ("ce", {"learning_rate": 0.1}, {}, ["learning_rate: 0.1, now 0.05"]),
        ("ce", {"peer": "dlb"}, {}, ["peer: dlb, now none"]),
        ("ce+teacher", {"teacher_weight": 2.0}, {}, ["teacher_weight: 2.0, now 1.0"]),
        ("dsr", {"taps": [2, 3], "drg_weight": 1.0}, {}, []),
        ("dsr", {"dsr_weight": 0.3}, {}, ["dsr_weight: 0.3, now 1.0"]),
        ("drg", {"dsr_weight": 0.3}, {}, []),
        ("drg", {"taps": [2, 3]}, {}, ["taps: (2, 3), now ()"]),
        ("drg", {"taps": [3]}, {"tap": 3}, []),
        ("drg", {"taps": [3]}, {}, ["tap: 3, now 2"]),
        ("ce", {"peer": "dks-like", "taps": [2]}, {"peer": "dks-like"}, ["taps: (2,), now ()"]),
        (
            "dsr",
            {"dsr_momentum": 0.5, "dsr_teacher": "ema"},
            {"dsr_teacher": "ema"},
            ["dsr_momentum: 0.5, now 0.9"],
        ),
        # Neither reads it, but a checkpoint of one does not fit the other.
        (
            "dsr",
            {"dsr_shape": "norm-variance", "dsr_teacher": "ema"},
            {"dsr_shape": "norm-variance"},
            ["dsr_teacher: ema, now previous"],
        ),
    ],
)
def test_plans_may_differ_in_what_no_term_of_theirs_reads(
    make_plan: MakePlan,
    terms: str,
    former: dict[str, object],
    now: dict[str, object],
    found: list[str],
) -> None:
    """Defaults of a recipe may have changed since a run began."""
    expected = [f"recipe {words}" for words in found]
    assert differences(make_plan(terms, **former), make_plan(terms, **now)) == expected


def test_the_runs_data_set_is_found_again(tmp_path: Path, finished: Path) -> None:
    trained = load_trained(finished)
    digits = msgspec.structs.replace(trained.plan, data_argument="digits")
    with pytest.raises(UserError, match="10 classes that are not those"):
        load_run_dataset(_with_plan(trained, digits))
    names = tuple(str(digit) for digit in range(10))
    right = msgspec.structs.replace(digits, class_names=names)
    # As a folder that is split 80/20 has other test images once an image was added.
    with pytest.raises(UserError, match="other images or labels than"):
        load_run_dataset(_with_plan(trained, msgspec.structs.replace(right, data_digest="0")))
    digest = load_dataset("digits", image_size=16, data_root=None).digest()
    right = msgspec.structs.replace(right, data_digest=digest)
    dataset = load_run_dataset(_with_plan(trained, right))
    assert dataset.test_images.shape == (360, 16, 16, 3)


def _with_plan(trained: object, plan: Plan) -> object:
    import dataclasses

    return dataclasses.replace(trained, plan=plan)  # type: ignore[type-var]
