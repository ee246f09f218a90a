"""The training loop: epochs of steps, an evaluation and a checkpoint after each."""

import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from runtime.model.figures import expected_calibration_error, softmax, top_k
from runtime.model.preprocess import preprocess
from training.config.plan import Plan
from training.data import Dataset
from training.data.splits import choosing_images, rows_of_run, with_label_noise
from training.engine.build import build_batches, build_learner
from training.engine.device import device_name
from training.engine.execution import Execution
from training.engine.interruption import InterruptedRunError, StopRequest
from training.engine.learner import DivergedError, Learner, Networks, all_finite
from training.engine.optimizers import distillation_scale, learning_rate, mix_share
from training.engine.process_group import ProcessGroup
from training.engine.selection import Scores, Selection, scores_of
from training.evaluation.logits import images_at_once
from training.records.checkpoint import Checkpoint
from training.records.journal import Journal, Progress

_CHECK_STEPS = 50  # after so many steps the losses are checked for values that are not finite
_CHECKPOINT_SECONDS = 300  # between two checkpoints of a long epoch
_PROBED_IMAGES = 8  # a checkpoint is written only if its student answers them with finite numbers

Save = Callable[[Checkpoint], None]


class Trainer:
    """Trains the student of a plan, in step with the other processes of its group.

    Between two steps its whole state is a Checkpoint: `checkpoint()` gives it, `restore()` takes
    it, and what follows is the same as without an interruption: bit for bit on one CPU with the
    same number of threads, elsewhere up to rounding.
    """

    def __init__(
        self,
        plan: Plan,
        dataset: Dataset,
        *,
        device: torch.device,
        group: ProcessGroup | None = None,
        teacher: nn.Module | None = None,
        execution: Execution | None = None,
        build: Callable[..., Learner] = build_learner,
    ) -> None:
        self.plan = plan
        self.device = device
        self.group = group = group or ProcessGroup()
        self.train_rows, self.validation_rows = rows, held = rows_of_run(dataset, plan.recipe)
        self.choosing = choosing_images(dataset, held, thresholds=plan.recipe.thresholds)
        self.true_labels = dataset.train_labels  # before `label_noise`
        self.dataset = dataset = with_label_noise(
            dataset, rows, share=plan.recipe.label_noise, seed=plan.seed
        )
        self.batches = build_batches(plan, dataset, rows, device=device, group=group)
        self.steps_per_epoch = steps = len(self.batches)
        build = partial(build, plan, dataset, rows, device=device, group=group)
        self.learner = build(steps_per_epoch=steps, teacher=teacher, execution=execution)
        self.selection = Selection(plan.recipe, images=int(self.choosing.sum()))
        self._epoch = 0  # whole epochs done
        self._deployed = 0  # the epoch after which the learner's student was as it is now
        self._terms: list[list[float]] = []  # of the steps of the current epoch
        self._earlier_seconds = 0.0  # of the current epoch, spent before an interruption
        self._epoch_started = 0.0
        self._saved_at = time.perf_counter()
        self.history: list[dict[str, Any]] = []

    @property
    def seconds(self) -> float:
        """Time spent in whole epochs, over all interruptions."""
        return float(sum(line["seconds"] for line in self.history))

    def train(self, folder: Path, save: Save, progress: Progress, stop: StopRequest) -> None:
        """Trains to the last epoch, or until the recipe's `patience` is over.

        Raises:
            InterruptedRunError: if `stop` was requested; a checkpoint is saved before.
        """
        if not self.group.is_main:
            self._run_epochs(None, save, progress, stop)
            return
        with closing(Journal(folder, self.history)) as journal:
            self._run_epochs(journal, save, progress, stop)

    def test_logits(self, *, averaged: bool = True) -> NDArray[np.float32]:
        """Logits (M, K) on the whole test split, of the deployed weights or of the last ones."""
        return self._logits(self.dataset.test_images, averaged=averaged)

    def validation_logits(self, *, averaged: bool = True) -> NDArray[np.float32] | None:
        """The same (V, K) on the images that are held out, if any are."""
        if not len(self.validation_rows):
            return None
        images, spec = self.dataset.train_images, self.dataset.input
        count = images_at_once(spec.size)
        logits = []
        for first in range(0, len(self.validation_rows), count):  # all at once may fill the memory
            rows = self.validation_rows[first : first + count]
            chunk = np.stack([preprocess(image, spec) for image in images[rows]])
            logits.append(self._logits(chunk, averaged=averaged))
        return np.concatenate(logits)

    def deploy_chosen(self) -> None:
        """Makes the student of the best epoch the one that is deployed, if the recipe wants it."""
        if self.selection.student is not None:
            self.learner.deploy(self.selection.student)
            self._deployed = self.selection.best_epoch

    def _logits(self, images: NDArray[np.uint8], *, averaged: bool) -> NDArray[np.float32]:
        logits = self.learner.deployed_logits if averaged else self.learner.last_logits
        return logits(images, self.dataset.input)

    def checkpoint(self, *, temperature: float = 1.0, finished: bool = False) -> Checkpoint:
        """The state between two steps.

        Finite losses are not enough to be sure that a run can go on. No loss has seen the last
        update yet. And a batch is normalised by its own statistics: with the running statistics,
        which are deployed, the same weights may overflow.

        Raises:
            DivergedError: if the weights or the student's answers are not finite.
        """
        self._collect_terms()
        networks, training = self.learner.networks(), self.learner.state_dict()
        self._require_finite("the weights are", networks, training)
        probe = self.dataset.test_images[:_PROBED_IMAGES]
        self.require_finite_answers(self.learner.deployed_logits(probe, self.dataset.input))
        return Checkpoint(
            plan=self.plan,
            epoch=self._epoch,
            step=len(self._terms),
            **networks._asdict(),
            training=training,
            terms=list(self._terms),
            history=list(self.history),
            seconds=self._seconds_of_epoch() if self._terms else 0.0,
            temperature=temperature,
            finished=finished,
            device=device_name(self.device),
            selection=self.selection.state_dict(deployed=None if self._terms else self._deployed),
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes on from `checkpoint`, which is of the same plan."""
        names = Networks._fields
        self.learner.load_networks(Networks(*(getattr(checkpoint, name) for name in names)))
        self.learner.load_state_dict(checkpoint.training)
        self._epoch = self._deployed = checkpoint.epoch
        self._terms = list(checkpoint.terms)
        self._earlier_seconds = checkpoint.seconds
        self.history = list(checkpoint.history)
        self.selection.load_state_dict(checkpoint.selection, student=checkpoint.best_student)
        if self.selection.images != self.choosing.sum():
            self.choosing[:] = True  # an older version let all of them choose the epoch

    def require_finite_answers(self, *logits: NDArray[np.float32] | None) -> None:
        """Checks the `logits` (N, K) of those processes that have any.

        Raises:
            DivergedError: in all processes, if a value is not finite.
        """
        answers = [torch.from_numpy(each) for each in logits if each is not None]
        self._require_finite("the student's answers are", answers)

    def _require_finite(self, what: str, *values: Any) -> None:
        if self.group.any(not all_finite(values), device=self.device):
            step = self._epoch * self.steps_per_epoch + len(self._terms)
            raise DivergedError(what, step=step, steps_per_epoch=self.steps_per_epoch)

    def _run_epochs(
        self, journal: Journal | None, save: Save, progress: Progress, stop: StopRequest
    ) -> None:
        while self._epoch < self.plan.recipe.epochs and not self.selection.ends(self._epoch):
            step, steps = len(self._terms), self.steps_per_epoch
            with progress.epoch(self._epoch + 1, step=step, steps=steps):
                self._run_epoch(save, progress, stop)
            line = self._close_epoch()
            self._save(save)
            if journal is not None:
                journal.add(self.history)
            if line is not None:
                progress.report(line)
            # In a short epoch several processes may not have agreed yet whether to stop.
            if self.group.any(stop.requested, device=self.device):
                raise InterruptedRunError(f"interrupted in epoch {self._epoch}, step {steps}")
        if self._epoch < self.plan.recipe.epochs:
            progress.say(self.selection.end_words(self._epoch))

    def _run_epoch(self, save: Save, progress: Progress, stop: StopRequest) -> None:
        recipe, steps = self.plan.recipe, self.steps_per_epoch
        self._epoch_started = time.perf_counter()
        first = len(self._terms)
        batches = self.batches.epoch(self._epoch, first=first)
        for step, batch in enumerate(batches, start=first):
            done = self._epoch * steps + step
            if self.learner.mix_share is not None:
                self.learner.mix_share.fill_(mix_share(recipe, step=done, steps_per_epoch=steps))
            self.learner.step(
                batch,
                learning_rate=learning_rate(recipe, step=done, steps_per_epoch=steps),
                scale=distillation_scale(recipe, step=done, steps_per_epoch=steps),
            )
            progress.advance()
            checking = (step + 1) % _CHECK_STEPS == 0
            if checking:
                self._collect_terms()
            # Several processes agree on a stop only at the steps where they synchronise anyway.
            if checking or self.group.world_size == 1:
                self._grant(stop, save, f"interrupted in epoch {self._epoch + 1}, step {step + 1}")

    def _grant(self, stop: StopRequest, save: Save, reason: str) -> None:
        stopping = self.group.any(stop.requested, device=self.device)
        overdue = time.perf_counter() - self._saved_at > _CHECKPOINT_SECONDS
        if stopping or self.group.any(overdue, device=self.device):
            self._save(save)
        if stopping:
            raise InterruptedRunError(reason)

    def _save(self, save: Save) -> None:
        checkpoint = self.checkpoint()
        if self.group.is_main:
            save(checkpoint)
        self._saved_at = time.perf_counter()

    def _collect_terms(self) -> None:
        """Fetches the terms of the latest steps.

        Raises:
            DivergedError: if a term is not finite.
        """
        done = self._epoch * self.steps_per_epoch + len(self._terms)
        self._terms += self.learner.take_terms(done=done, steps_per_epoch=self.steps_per_epoch)

    def _close_epoch(self) -> dict[str, Any] | None:
        """Ends the epoch; the main process evaluates and gets the journal's line."""
        self._collect_terms()
        train_seconds = self._seconds_of_epoch()
        logits = self.test_logits() if self.group.is_main else None
        self.require_finite_answers(logits)
        scores = self._judge() if self.selection.measures else None
        line = self._line(logits, train_seconds, scores) if logits is not None else None
        if line is not None:
            self.history.append(line)
        self._epoch += 1
        self._deployed = self._epoch
        self._terms = []
        self._earlier_seconds = 0.0
        return line

    def _judge(self) -> Scores:
        """The validation scores of the epoch that ends, by which every process decides alike."""
        logits = self.validation_logits() if self.group.is_main else None
        self.require_finite_answers(logits)
        labels = self.dataset.train_labels[self.validation_rows][self.choosing]
        own = scores_of(logits[self.choosing], labels) if logits is not None else None
        scores = Scores(*self.group.share(own))
        gained = self.selection.judge(self._epoch + 1, scores)
        if gained and self.selection.by_validation and self.group.is_main:
            self.selection.student = self.learner.networks().student
        return scores

    def _line(
        self, logits: NDArray[np.float32], train_seconds: float, scores: Scores | None
    ) -> dict[str, Any]:
        recipe, steps = self.plan.recipe, self.steps_per_epoch
        means = [float(mean) for mean in np.mean(self._terms, axis=0)]
        last = (self._epoch + 1) * steps - 1
        images = steps * recipe.batch_size * self.group.world_size
        # The batches count their waiting since this process started, so the seconds before an
        # interruption must not count either.
        own_seconds = train_seconds - self._earlier_seconds
        labels = self.dataset.test_labels
        measured = {} if scores is None else scores._asdict()
        return {
            "epoch": self._epoch + 1,
            "loss": sum(means),
            **dict(zip(self.learner.log.names, means, strict=True)),
            "learning_rate": learning_rate(recipe, step=last, steps_per_epoch=steps),
            "top1": top_k(logits, labels, 1),
            "top5": top_k(logits, labels, 5),
            "ece": expected_calibration_error(softmax(logits), labels),
            **{f"validation_{name}": value for name, value in measured.items()},
            "seconds": self._seconds_of_epoch(),  # with the evaluation
            "images_per_second": images / train_seconds,
            "data_wait_share": min(1.0, self.batches.wait_seconds / own_seconds),
        }

    def _seconds_of_epoch(self) -> float:
        return self._earlier_seconds + time.perf_counter() - self._epoch_started
