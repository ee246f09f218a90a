"""The teacher of a run: the student of another run, checked and brought into our form."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from runtime.base.errors import UserError
from runtime.model.card import InputSpec
from runtime.model.locate import RESULT, find_run
from training.config.plan import Plan
from training.data import Dataset
from training.records.checkpoint import TrainedRun, load_trained


@dataclass(frozen=True, kw_only=True)
class TeacherRun:
    """A network that teaches.

    `network` gives logits (N, K) of normalised images (N, 3, S, S), in the order of the classes of
    the run that it teaches. `word` is how a plan names it: "sha256:" and its checkpoint's digest.
    `said` are sentences for the user.
    """

    network: nn.Module
    word: str
    said: tuple[str, ...]


class Reordered(nn.Module):
    """A network whose logits (N, K) are put into another order of the same classes."""

    def __init__(self, network: nn.Module, order: list[int]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("order", torch.tensor(order), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """The logits of normalised images (N, 3, S, S)."""
        logits: Tensor = self.network(images)
        return logits.index_select(1, self.get_buffer("order"))


def finished_run(folder: Path) -> Path:
    """The folder of the run that `--teacher` names.

    Raises:
        UserError: if there is no run, or it is not finished.
    """
    run = find_run(folder)
    if not (run / RESULT).is_file():
        raise _unfinished(folder)
    return run


def _unfinished(folder: Path) -> UserError:
    return UserError(
        f"--teacher {folder} is not finished (it has no {RESULT}): repeat its command with "
        "--resume, or name a finished run"
    )


def load_teacher(folder: Path, dataset: Dataset) -> TeacherRun:
    """The student of the finished run in `folder` as the teacher of a run on `dataset`.

    Raises:
        UserError: if it is not finished, or answers other classes, or sees other pixels.
    """
    run = load_trained(finished_run(folder))
    plan = run.plan
    if not run.result:  # a result lies there, of another checkpoint
        raise _unfinished(folder)
    _check_classes(folder, plan.class_names, dataset.class_names)
    _check_input(folder, plan.input, dataset.input)
    network: nn.Module = run.student
    said = [f"taught by {plan.arch} x{plan.width:g} of {folder}{_top1(run)}"]
    if plan.class_names != dataset.class_names:
        order = [plan.class_names.index(name) for name in dataset.class_names]
        network = Reordered(network, order)
        said.append("the teacher has the same classes in another order: its answers are reordered")
    if not _same_images(plan, dataset):
        said.append(
            f"the teacher was trained on other images or labels ({plan.data}): if images that are "
            "tested on here are among them, the figures are too good"
        )
    return TeacherRun(network=network, word=f"sha256:{run.checkpoint_sha256}", said=tuple(said))


def _check_classes(folder: Path, theirs: tuple[str, ...], ours: tuple[str, ...]) -> None:
    if {*theirs} == {*ours}:
        return
    missing, further = [sorted({*a} - {*b}) for a, b in ((ours, theirs), (theirs, ours))]
    parts = [
        f"{word} {names[0]!r}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        for word, names in (("lacks", missing), ("has", further))
        if names
    ]
    raise UserError(
        f"--teacher {folder} answers other classes than the data have: it {', and '.join(parts)}; "
        "train a teacher on these classes"
    )


def _check_input(folder: Path, theirs: InputSpec, ours: InputSpec) -> None:
    """A teacher sees the student's pixels, so both must be prepared alike."""
    if theirs.size != ours.size:
        raise UserError(
            f"--teacher {folder} was trained at {theirs.size} px and this run is at {ours.size} "
            f"px; give --image-size {theirs.size}, or train a teacher at {ours.size} px"
        )
    names = ours.__struct_fields__
    apart = [name for name in names if getattr(theirs, name) != getattr(ours, name)]
    if apart:
        name = apart[0]
        raise UserError(
            f"--teacher {folder} was trained on pictures that are prepared in another way (input "
            f"{name} {getattr(theirs, name)}, here {getattr(ours, name)}); "
            "train a teacher on these data"
        )


def _same_images(plan: Plan, dataset: Dataset) -> bool:
    """As far as the teacher's plan states it; the order of the classes changes the labels."""
    return plan.data_digest in ("", dataset.digest())


def _top1(run: TrainedRun) -> str:
    top1 = run.result.get("top1")
    return f" (top-1 {top1:.2%})" if isinstance(top1, float) else ""
