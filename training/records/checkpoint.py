"""`checkpoint.pt`: all that a run needs to go on, and a student that can be rebuilt from it.

The file holds plain types and tensors only, loads with `weights_only=True`, and is replaced
atomically, so that a reader finds the former one or the new one, never half of one.
"""

import io
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from runtime.base.errors import UserError, first_line
from runtime.base.files import atomic_path, sha256_of_open
from runtime.model.card import EpochPoint
from runtime.model.locate import CHECKPOINT, RESULT
from training.config.plan import Plan
from training.networks.students import student_of
from training.records.checkpoint_format1 import converted

FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A run between two steps.

    `student` is what is deployed: the averaged weights where the recipe averages, and then
    `raw_student` holds those that training goes on with. `auxiliary` are the weights that exist
    only in training. `training` holds what `Learner.state_dict` gives: the state of the optimizer
    and, for each process, the methods' memory and the states of the random generators.
    """

    plan: Plan
    epoch: int  # whole epochs done
    step: int  # steps done of the next epoch
    student: dict[str, Tensor]
    raw_student: dict[str, Tensor] | None
    auxiliary: dict[str, Tensor] | None
    training: dict[str, Any]
    terms: list[list[float]]  # of the steps done of the next epoch
    seconds: float  # spent on them
    history: list[dict[str, Any]]  # the journal's lines
    temperature: float
    finished: bool
    device: str = ""  # as a result states it; "" in a checkpoint that does not
    selection: dict[str, Any] | None = None  # what `Selection.state_dict` gives
    # What `training/qat.py` has learned, by the kind of int8 file: plain types, as `LearnedInt8`
    # reads them. All other fields are then those of the run that it began with.
    learned: dict[str, dict[str, Any]] | None = None

    @property
    def best_student(self) -> dict[str, Tensor]:
        """The student to deploy: of the best epoch so far, where the recipe selects it."""
        kept: dict[str, Tensor] | None = (self.selection or {}).get("student")
        return self.student if kept is None else kept


@dataclass(frozen=True, kw_only=True)
class LearnedInt8:
    """A student that was trained through simulated int8 numbers of one kind.

    Attributes:
        student: in evaluation mode, on the CPU, float32: its weights still have to be rounded.
        ranges: the lowest and the highest value of each activation that is rounded, by the name
            that `training.quantization.operators` gives it.
        epochs: that it was trained for.
        chosen: the epoch that was kept; 0 is the start, whose ranges were observed.
    """

    student: nn.Module
    ranges: dict[str, tuple[float, float]]
    epochs: int
    chosen: int


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A student as it is deployed, with everything that is known of it."""

    folder: Path
    student: nn.Module  # evaluation mode, CPU, float32
    plan: Plan
    temperature: float
    result: dict[str, Any]  # result.json; {} when the run was interrupted before its end
    history: list[EpochPoint]
    checkpoint_sha256: str
    learned: dict[str, LearnedInt8] = field(default_factory=dict)  # by the kind of int8 file


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes `checkpoint` to `path`, or leaves the former file as it was."""
    content = {name: getattr(checkpoint, name) for name in Checkpoint.__dataclass_fields__}
    content["plan"] = msgspec.to_builtins(checkpoint.plan)
    # It is written to memory first: torch's own file writer reports a full disk without an errno.
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(buffer.getbuffer())


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads `path` to the CPU.

    Raises:
        UserError: if the file is missing, truncated or not a checkpoint of ours.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[Checkpoint, str]:
    """As `read_checkpoint`, with the SHA-256 of the content that was read."""
    try:
        with path.open("rb") as file:  # training may replace `path`, but not the open file
            digest = sha256_of_open(file)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist; train a run first: `python training/run.py`"
        ) from None
    except PermissionError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}; change its permissions"
        ) from None
    except Exception as error:  # any: what is no checkpoint is read as a program of pickle
        raise UserError(
            f"{path} cannot be read: truncated, or no checkpoint of ours ({first_line(error)}); "
            "train the run again"
        ) from error
    version = content.get("format") if isinstance(content, dict) else None
    if version not in (1, FORMAT):
        raise UserError(
            f"{path} has checkpoint format {version}, expected {FORMAT}; it is of another version "
            "of SKD Edge, or no checkpoint of ours: train the run again"
        )
    try:
        if version == 1:
            content = converted(content)
        plan = msgspec.convert(content.pop("plan"), Plan)
        whole = Checkpoint(plan=plan, **{k: v for k, v in content.items() if k != "format"})
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        raise UserError(f"{path} is not a whole checkpoint: {first_line(error)}") from error
    return whole, digest


def without_training(checkpoint: Checkpoint) -> Checkpoint:
    """A finished run's checkpoint with the student to deploy alone: a third of the size, or less.

    It can be exported, tested and learned from like the whole one. What only training needs is
    gone: the state of the optimizer, the auxiliary weights and those before the average. So
    `training/qat.py` goes on from it as from a run without an auxiliary head.

    Raises:
        ValueError: if the run is not finished, because it could not go on.
    """
    if not checkpoint.finished:
        raise ValueError("the run is not finished: it needs all of its checkpoint to go on")
    return replace(
        checkpoint,
        student=checkpoint.best_student,
        raw_student=None,
        auxiliary=None,
        training={},
        selection=None,
    )


def load_trained(run: Path) -> TrainedRun:
    """Rebuilds the student of a run folder.

    Raises:
        UserError: if its checkpoint cannot be read or does not fit.
    """
    path = run / CHECKPOINT
    checkpoint, digest = _read(path)
    plan = checkpoint.plan
    student = _student_with(checkpoint.best_student, plan, path)
    points = [
        EpochPoint(epoch=line["epoch"], loss=line["loss"], top1=line["top1"])
        for line in checkpoint.history
    ]
    return TrainedRun(
        folder=run,
        student=student,
        plan=plan,
        temperature=checkpoint.temperature,
        result=_read_result(run / RESULT, checkpoint) if checkpoint.finished else {},
        history=points,
        checkpoint_sha256=digest,
        learned={
            kind: LearnedInt8(
                student=_student_with(found["student"], plan, path),
                ranges={name: (low, high) for name, (low, high) in found["ranges"].items()},
                epochs=found["epochs"],
                chosen=found.get("chosen_epoch", found["epochs"]),
            )
            for kind, found in (checkpoint.learned or {}).items()
            if found["finished"]
        },
    )


def _student_with(weights: dict[str, Tensor], plan: Plan, path: Path) -> nn.Module:
    """The plan's student with these weights, of the file `path`, as it is deployed."""
    student = student_of(plan)
    try:
        student.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{path} does not hold a {plan.arch}: {first_line(error)}") from error
    return student.eval().requires_grad_(requires_grad=False)


def rewrite_words(*, learned: bool) -> str:
    """What helps where `result.json` is of no use, for a run that `training/qat.py` made or not."""
    if learned:
        return "train it again with `python training/qat.py ...`, without --resume"
    return "delete it, and `python training/run.py ... --resume` writes it again"


def _read_result(path: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    try:
        result: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        return {}
    except ValueError as error:  # msgspec's errors are ValueErrors
        raise UserError(
            f"{path} is not valid JSON ({error}); "
            f"{rewrite_words(learned=checkpoint.learned is not None)}"
        ) from error
    return result
