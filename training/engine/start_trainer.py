"""A trainer whose way to compute is settled: chosen at the start, or as a checkpoint keeps it."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from runtime.base.errors import UserError, first_line
from runtime.base.files import cache_root, check_writable
from training.config.plan import Plan
from training.data import Dataset
from training.engine.execution import execution_of, kept_execution
from training.engine.interruption import InterruptedRunError, StopRequest
from training.engine.process_group import ProcessGroup
from training.engine.step import Step
from training.engine.trainer import Trainer
from training.records.checkpoint import Checkpoint

_KERNELS = "TORCHINDUCTOR_CACHE_DIR"  # the folder in which TorchInductor keeps what it compiles
_TEMPORARY = "torchinductor_"  # and the user's name


def start_trainer(
    plan: Plan,
    dataset: Dataset,
    *,
    device: torch.device,
    group: ProcessGroup,
    teacher: nn.Module | None,
    former: Checkpoint | None,
    stop: StopRequest,
    say: Callable[[str], None],
) -> Trainer:
    """A trainer of `plan`, not restored yet; on a CPU its compiled step is ready to run.

    Args:
        plan: of the run.
        dataset: its data.
        device: on which it trains.
        group: the processes of the run, which all call this together.
        teacher: the network of `--teacher`.
        former: the checkpoint that the run goes on from; None: it begins.
        stop: a request that comes while the step is compiled ends the run.
        say: tells the user a sentence.

    Raises:
        UserError: if the recipe, or the run that goes on, needs what is not possible here.
        InterruptedRunError: if a stop was requested before the step was compiled.
    """
    kept = kept_execution(former.training, device) if former is not None else None
    chosen = kept or group.share(execution_of(plan.recipe, device))
    trainer = Trainer(plan, dataset, device=device, group=group, teacher=teacher, execution=chosen)
    say(f"{chosen.words}; {keep_kernels()}" if chosen.compiled else chosen.words)
    if not chosen.compiled or device.type != "cpu":
        return trainer
    failure = _failure_of_all(compile_ahead(trainer), group)
    if group.any(stop.requested, device=device):  # the signal may have ended the compiler, too
        raise InterruptedRunError("interrupted while the step was compiled")
    if failure is not None:
        raise UserError(f"the step cannot be compiled: {failure}; use compile: false, or auto")
    return trainer


def keep_kernels() -> str:
    """Has compiled kernels kept for the next run: in our folder, or in one that is named.

    Returns:
        Where they are kept, or why they are not: torch then has them in a temporary folder.
    """
    named = os.environ.get(_KERNELS)
    # torch itself names a temporary folder there as soon as it has looked for one.
    if not named or Path(named).name.startswith(_TEMPORARY):
        try:
            check_writable(folder := cache_root() / "compiled")
        except UserError as error:
            return f"kernels are not kept for the next run: {error}"
        named = os.environ[_KERNELS] = str(folder)
    return f"kernels are kept in {named}"


def compile_ahead(trainer: Trainer) -> str | None:
    """Compiles the step of a trainer by the gradients of its first batch, and restores its state.

    Returns:
        Why it cannot be compiled, or None.
    """
    learner = trainer.learner
    assert isinstance(learner.step, Step)
    buffers = [each for net in (learner.student, learner.methods) for each in net.buffers()]
    former = [buffer.clone() for buffer in buffers]
    drawn = learner.generator.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            learner.step.compute(next(trainer.batches.epoch(0)))
    except (RuntimeError, OSError) as error:  # of TorchDynamo, TorchInductor and the compiler
        return first_line(error)
    finally:
        learner.optimizer.zero_grad(set_to_none=True)
        learner.generator.set_state(drawn)
        for buffer, value in zip(buffers, former, strict=True):
            buffer.copy_(value)
    return None


def _failure_of_all(own: str | None, group: ProcessGroup) -> str | None:
    """Why any of the processes cannot compile, in all of them."""
    found = [words for words in group.gather(own) if words is not None]
    failure: str | None = group.share(found[0] if found else None)
    return failure
