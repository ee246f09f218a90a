"""The training of a student for int8, from a finished run to a new run with learned ranges."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from runtime.base.command import fail
from runtime.base.errors import UserError
from runtime.base.files import write_atomic
from runtime.base.shown_text import pasted
from runtime.evaluation.class_report import REPORT_FILES
from runtime.model.figures import top_k
from runtime.model.holdout import VALIDATION_FILE, read_validation
from runtime.model.locate import CHECKPOINT, DATA_REPORT, RESULT, RUNS, find_run
from runtime.model.preprocess import preprocess
from training.config.plan import MovedData, Plan
from training.data import Dataset
from training.data.splits import without_kept_apart
from training.engine.build_quantized import build_quantized_learner, recipe_for_int8
from training.engine.device import choose_device, device_name, keep_freed_memory, versions
from training.engine.full_memory import full_memory_told, images_words
from training.engine.interruption import InterruptedRunError, StopRequest, stop_request
from training.engine.nearest_epoch import NearestEpoch, judging_rows
from training.engine.trainer import Trainer
from training.evaluation.logits import logits_of
from training.quantization.qdq_rules import Kind
from training.quantization.quantized_student import QuantizedStudent
from training.quantization.self_teacher import SelfTeacher
from training.records.checkpoint import (
    Checkpoint,
    TrainedRun,
    load_trained,
    read_checkpoint,
    save_checkpoint,
)
from training.records.journal import Progress, counted
from training.records.plots import CURVES, plot_curves
from training.records.run_data import load_run_dataset
from training.records.run_folder import (
    IMAGES,
    RunFolder,
    check_latest,
    check_out,
    choose_folder,
    exclusive,
    move_latest,
)

_SHARE, _FEWEST = 10, 2  # epochs: a tenth of the run's (Wu et al., 2020, arXiv 2004.09602)
_STOPPED = 1
_COPIED = (*REPORT_FILES, DATA_REPORT, IMAGES, VALIDATION_FILE)
_STUDENT = "student."


def train_int8(
    folder: Path,
    *,
    epochs: int | None,
    kind: Kind,
    out: Path | None,
    resume: bool,
    data: str | None,
    data_root: Path | None,
    device_word: str,
) -> int:
    """Trains the student of the run in `folder`; returns the exit code.

    Raises:
        UserError: the run is not finished, or its data or its student do not allow it.
    """
    device = choose_device(device_word)
    folder = find_run(folder)
    if folder.is_symlink():
        folder = folder.parent / folder.readlink()
    if folder.name in ("", ".."):  # they are no names that the kind can be added to
        folder = folder.resolve()
    trained = load_trained(folder)
    if not trained.result:
        raise UserError(
            f"{folder} is not finished (it has no {RESULT}): repeat its command with --resume, "
            "or name a finished run"
        )
    source = read_checkpoint(folder / CHECKPOINT)
    epochs = epochs or max(_FEWEST, round(source.plan.recipe.epochs / _SHARE))
    plan = msgspec.structs.replace(
        source.plan, methods=("ce",), recipe=recipe_for_int8(source.plan.recipe, epochs)
    )
    progress = Progress(epochs=epochs)
    base = out or folder.with_name(f"{folder.name}-{kind}")
    check_out(base, resume=resume)
    dataset = load_run_dataset(trained, MovedData(data, data_root))
    moves_latest = out is None and folder.parent.resolve() == RUNS.resolve()
    if moves_latest:
        check_latest()
    run = choose_folder(base.name, out=base, resume=resume)
    learning = _Learning(run.path, source, trained, kind, plan, dataset, moves_latest)
    former = learning.former(run)
    if run.finished:
        progress.say(f"{run.path} is finished: nothing to resume")
        return 0
    with exclusive(run.path), stop_request() as stop, full_memory_told(device, images_words(plan)):
        progress.say(f"run folder {run.path}")
        return learning.run(device, former, progress, stop)


class _Learning:
    """One training for int8, and its files."""

    def __init__(
        self,
        path: Path,
        source: Checkpoint,
        trained: TrainedRun,
        kind: Kind,
        plan: Plan,
        dataset: Dataset,
        moves_latest: bool,
    ) -> None:
        self._path = path
        self._source = source
        self._trained = trained
        self._kind = kind
        self._plan = plan
        self._dataset = dataset
        self._moves_latest = moves_latest
        self._quantized: QuantizedStudent | None = None
        self._nearest: NearestEpoch | None = None

    def former(self, run: RunFolder) -> Mapping[str, Any] | None:
        """What the checkpoint in the folder holds of this training; None if there is none.

        Raises:
            UserError: the folder holds another run.
        """
        if not run.exists:
            return None
        found = (read_checkpoint(run.path / CHECKPOINT).learned or {}).get(self._kind)
        apart = [
            f"{name}: {found.get(name)}, now {value}"
            for name, value in self._stated().items()
            if found is not None and found.get(name) != value
        ]
        if found is None or apart:
            what = "; ".join(apart) or f"it has no learned ranges of {self._kind}"
            raise UserError(
                f"{run.path} holds another run ({what}); repeat its options, or train without "
                "--resume"
            )
        if not (run.finished and found["finished"]) and found.get("nearest") is None:
            why = "is of an older version of SKD Edge"
            if found["finished"]:  # the last save drops what writes the result
                why = f"has lost its {RESULT}, and its checkpoint cannot write it again"
            raise UserError(f"{run.path} {why}: train without --resume")
        return found

    def run(
        self,
        device: torch.device,
        former: Mapping[str, Any] | None,
        progress: Progress,
        stop: StopRequest,
    ) -> int:
        """Trains to the last epoch and writes the run's files; returns the exit code."""
        keep_freed_memory(device)
        build = partial(build_quantized_learner, kind=self._kind, source=self._source)
        trainer = Trainer(self._plan, self._dataset, device=device, build=build)
        quantized = trainer.learner.student
        assert isinstance(quantized, QuantizedStudent)
        self._quantized = quantized
        choosing = trainer.validation_rows[trainer.choosing]
        kept = read_validation(self._trained.folder, remedy="remove it, or train the run again")
        choosing = without_kept_apart(choosing, self._dataset, kept)
        rows, judging = judging_rows(trainer.train_rows, choosing)
        self._nearest = NearestEpoch(self._prepared(rows), partial(self._exact, device))
        self._answer = partial(trainer.learner.deployed_logits, spec=self._dataset.input)
        if former is not None:
            none: dict[str, Any] = dict.fromkeys(("raw_student", "auxiliary", "selection"))
            trainer.restore(replace(self._source, **former["state"], **none))
            self._nearest.load_state_dict(former["nearest"])
            progress.say(f"resumed after {counted(former['state']['epoch'], 'epoch')}")
        else:
            (self._path / RESULT).unlink(missing_ok=True)
            self._nearest.judge(0, self._answer, trainer.learner.networks().student)
        progress.say(
            f"{self._plan.arch} of {self._trained.folder} for {self._kind}: "
            f"{len(trainer.train_rows)} training images, "
            f"{counted(self._plan.recipe.epochs, 'epoch')} on {device_name(device)}"
        )
        try:
            trainer.train(self._path, self._save, progress, stop)
        except InterruptedRunError as interruption:
            return fail(f"{interruption}; {self._path} goes on with --resume", _STOPPED)
        self._finish(trainer, progress, judging)
        return 0

    def _stated(self) -> dict[str, Any]:
        """What two trainings must have in common for one to go on with the other."""
        return {
            "source_sha256": self._trained.checkpoint_sha256,
            "epochs": self._plan.recipe.epochs,
        }

    def _save(self, checkpoint: Checkpoint, *, finished: bool = False) -> None:
        """Writes the run's checkpoint: the source's, with what has been learned so far.

        An epoch that ends with it is judged before. A run without its result can go on with it.
        """
        assert self._quantized is not None
        assert self._nearest is not None
        if checkpoint.step == 0 and not finished:
            self._nearest.judge(checkpoint.epoch, self._answer, checkpoint.student)
        complete = (self._path / RESULT).is_file()
        names = ("epoch", "step", "student", "training", "terms", "history", "seconds")
        learned = {
            **self._stated(),
            "source": self._trained.folder.name,
            "finished": finished,
            "student": {
                name.removeprefix(_STUDENT): value
                for name, value in checkpoint.student.items()
                if name.startswith(_STUDENT)
            },
            "ranges": {name: list(ends) for name, ends in self._quantized.ranges().items()},
            "state": None if complete else {name: getattr(checkpoint, name) for name in names},
            "nearest": None if complete else self._nearest.state_dict(),
            "chosen_epoch": self._nearest.figures()["chosen_epoch"],
        }
        whole = replace(
            self._source,
            training={},
            finished=finished,
            learned={**(self._source.learned or {}), self._kind: learned},
        )
        save_checkpoint(self._path / CHECKPOINT, whole)
        if self._moves_latest:
            move_latest(self._path)

    def _finish(self, trainer: Trainer, progress: Progress, judging: str) -> None:
        """Evaluates the nearest epoch, and writes the last files; result.json makes it whole."""
        assert self._nearest is not None
        trainer.learner.deploy(self._nearest.student)
        figures = self._nearest.figures()
        exact = self._exact(trainer.device, self._dataset.test_images)
        rounded = trainer.test_logits()
        checkpoint = trainer.checkpoint(finished=True)
        self._save(checkpoint, finished=True)
        labels = self._dataset.test_labels
        learned = {
            "source": self._trained.folder.name,
            **self._stated(),
            **figures,
            "top1": top_k(rounded, labels, 1),
            "agreement": float(np.mean(rounded.argmax(axis=1) == exact.argmax(axis=1))),
            "seconds": trainer.seconds,
            "device": device_name(trainer.device),
            "versions": versions(),
            "recipe": msgspec.to_builtins(self._plan.recipe),
        }
        result = {
            **self._trained.result,
            "method": "qat",
            "learned": {**self._trained.result.get("learned", {}), self._kind: learned},
        }
        for name in _COPIED:
            if (self._trained.folder / name).is_file():
                write_atomic(self._path / name, (self._trained.folder / name).read_bytes())
        title = f"{self._plan.arch} for {self._kind}, {self._trained.folder.name}"
        plot_curves(self._path / CURVES, trainer.history, terms=SelfTeacher.term_names, title=title)
        content = msgspec.json.format(msgspec.json.encode(result), indent=2)
        write_atomic(self._path / RESULT, content + b"\n")
        self._save(checkpoint, finished=True)
        progress.say(
            f"\n  epoch {figures['chosen_epoch']} of {self._plan.recipe.epochs} is kept (0 is the "
            f"start): KL from float32 {figures['divergence']:.5f} on "
            f"{figures['judging_images']:,} {judging} images, {figures['start_divergence']:.5f} "
            "at the start"
        )
        progress.say(
            f"\n  float32  top-1 {top_k(exact, labels, 1):.2%}\n"
            f"  {self._kind:<7}  top-1 {learned['top1']:.2%}, agrees with float32 on "
            f"{learned['agreement']:.2%} of {len(labels):,} test images"
        )
        shown = pasted(self._path)
        progress.say(f"\nrun   {self._path}\nnext  python export/run.py {shown} --precision int8")

    def _exact(self, device: torch.device, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the float32 student answers."""
        student, spec = self._trained.student.to(device), self._dataset.input
        return logits_of(student, images, spec, device=device)

    def _prepared(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        images, spec = self._dataset.train_images, self._dataset.input
        return np.stack([preprocess(images[row], spec) for row in rows])
