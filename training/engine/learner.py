"""All that changes while a student learns: networks, methods, optimizer, random generators."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from runtime.base.errors import UserError
from runtime.model.card import InputSpec
from training.engine.captured_step import CapturedStep
from training.engine.execution import Execution
from training.engine.process_group import ProcessGroup
from training.engine.resharding import part_of_process
from training.engine.step import Step, TermLog
from training.engine.weight_average import WeightAverage
from training.evaluation.logits import logits_of
from training.methods.method import Method
from training.networks.weights import start_from

TrainStep = Step | CapturedStep


class DivergedError(UserError):
    """The loss, the weights or the student's answers are no longer finite numbers."""

    def __init__(self, what: str, *, step: int, steps_per_epoch: int, named: str = "") -> None:
        epoch = -(-step // steps_per_epoch)
        super().__init__(
            f"{what} not finite at step {step} (epoch {epoch}){named}; the last good checkpoint, "
            "if there is one, is kept; lower learning_rate or lengthen warmup_epochs"
        )


class Networks(NamedTuple):
    """Weights on the CPU; `student` are those that are deployed.

    Where the recipe averages them, `raw_student` are those that training goes on with. `auxiliary`
    is what the methods have beside the student, by the method's name and its own: None if nothing.
    """

    student: dict[str, Tensor]
    raw_student: dict[str, Tensor] | None
    auxiliary: dict[str, Tensor] | None


@dataclass(kw_only=True)
class Learner:
    """The state of a run, and the step that advances it."""

    student: nn.Module
    methods: nn.ModuleDict  # of Method, by name
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    generator: torch.Generator  # of the augmentation
    step: TrainStep
    log: TermLog
    mix_share: Tensor | None  # of the augmentation; None: every image is mixed, or none
    group: ProcessGroup
    execution: Execution
    device: torch.device

    @property
    def auxiliary_params(self) -> int:
        """How many parameters exist only in training."""
        return sum(parameter.numel() for parameter in self.methods.parameters())

    def deployed_logits(self, images: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.float32]:
        """Logits (N, K) that the deployed student gives of uint8 images (N, size, size, 3)."""
        with self.average.applied() if self.average is not None else nullcontext():
            return logits_of(self.student, images, spec, device=self.device)

    def last_logits(self, images: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.float32]:
        """The same of the student's last weights, also where their average is deployed."""
        return logits_of(self.student, images, spec, device=self.device)

    def take_terms(self, *, done: int, steps_per_epoch: int) -> list[list[float]]:
        """The terms of each step since the last call, `done` steps into the run.

        Raises:
            DivergedError: in all processes together, if a term is not finite.
        """
        rows = self.log.take(self.group)
        bad = np.argwhere(~np.isfinite(rows))
        if len(bad):
            row = int(bad[0][0])
            pairs = zip(self.log.names, rows[row], strict=True)
            named = ", ".join(f"{name} {value}" for name, value in pairs if not np.isfinite(value))
            step = done + row + 1
            raise DivergedError(
                "the loss is", step=step, steps_per_epoch=steps_per_epoch, named=f": {named}"
            )
        terms: list[list[float]] = rows.tolist()
        return terms

    def networks(self) -> Networks:
        """The networks' weights on the CPU."""
        raw = _on_cpu(self.student.state_dict())
        averaged = _on_cpu(self.average.averaged) if self.average is not None else None
        memory = self._memory()
        auxiliary = {k: v for k, v in self.methods.state_dict().items() if k not in memory}
        return Networks(
            student=raw if averaged is None else averaged,
            raw_student=None if averaged is None else raw,
            auxiliary=_on_cpu(auxiliary) or None,
        )

    def load_networks(self, networks: Networks) -> None:
        """Takes over what `networks` gave."""
        raw = networks.raw_student
        self.student.load_state_dict(networks.student if raw is None else raw)
        if self.average is not None:
            self.average.load(networks.student)
        self.methods.load_state_dict({**self._memory(), **(networks.auxiliary or {})})

    def deploy(self, student: dict[str, Tensor]) -> None:
        """Deploys these weights from now on; training cannot go on with them as it was."""
        if self.average is not None:
            self.average.load(student)
        else:
            self.student.load_state_dict(student)

    def start_from(self, weights: Mapping[str, object], *, arch: str) -> str | None:
        """Begins with `weights`; returns a sentence about what was left out of them."""
        left_out = start_from(self.student, weights, arch=arch)
        if self.average is not None:
            self.average.restart()
        return left_out

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs beside the networks, as plain types and CPU tensors.

        All processes call it together; only the main one gets the others' part.
        """
        own = {
            "memory": _on_cpu(self._memory()),
            "augmentation": self.generator.get_state(),
            "random": torch.get_rng_state(),
            "cuda_random": (
                torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
            ),
        }
        return {
            "optimizer": _optimizer_state(self.optimizer),
            "average_updates": _on_cpu(self.average.updates) if self.average is not None else None,
            "processes": self.group.gather(own),
            "execution": self.execution.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave.

        Raises:
            UserError: if weights are averaged and the state is older than the average's warm-up.
        """
        if self.average is not None:
            self.average.updates.copy_(_average_updates(state))
        _load_optimizer(self.optimizer, state["optimizer"])
        memory = self._memory()
        images = self._images_of_step()
        own = part_of_process(state["processes"], self.group, memory, images)
        for name, value in memory.items():
            value.copy_(own["memory"][name])
        if "random" not in own:  # a process that the checkpoint does not know
            return
        # A generator's state is its device's kind. On another kind the run goes on, but with other
        # draws than it would have had.
        if len(own["augmentation"]) == len(self.generator.get_state()):
            self.generator.set_state(own["augmentation"])
        torch.set_rng_state(own["random"])
        if own["cuda_random"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(own["cuda_random"], self.device)

    def _images_of_step(self) -> int:
        """How many images of a step this process has."""
        methods = [each for each in self.methods.values() if isinstance(each, Method)]
        return methods[0].setting.recipe.batch_size

    def _memory(self) -> dict[str, Tensor]:
        """The tensors of the methods' memory, as "method.name"."""
        return {
            f"{name}.{key}": method.get_buffer(key)
            for name, method in self.methods.items()
            if isinstance(method, Method)
            for key in method.memory_names
        }


def _average_updates(state: dict[str, Any]) -> Tensor:
    updates: Tensor | None = state.get("average_updates")
    if updates is None:  # a guess would give an average that no run from the start has
        raise UserError(
            "the checkpoint does not say how many updates its averaged weights (ema_decay) have "
            "had: it is from before the average warmed up, and cannot go on as it began; "
            "train again without --resume"
        )
    return updates


def _optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state without the learning rate.

    The rate is a function of the step. It is left out so that a checkpoint does not depend on
    whether this process has made a step since it started.
    """
    state: dict[str, Any] = _on_cpu(optimizer.state_dict())
    for group in state["param_groups"]:
        group["lr"] = 0.0
    return state


def _load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads `state`, but keeps the settings and the memory layouts that a step relies on.

    The settings of the state are the recipe's, too, but in the form of its device. Saved on a CPU,
    rates are numbers and AdamW cannot be captured. The layouts must be those of the weights: fused
    optimizers walk through memory, so a momentum in another layout would be applied to other
    elements without an error.
    """
    settings = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter).copy_(value)


def all_finite(value: Any) -> bool:
    """Whether no tensor in nested dicts, lists and tuples holds a NaN or an infinity."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    if isinstance(value, dict):
        value = list(value.values())
    return not isinstance(value, list | tuple) or all(map(all_finite, value))


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        # A copy also of what is there already: training goes on while this is kept.
        return value.detach().to("cpu", copy=True).contiguous()
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_on_cpu(item) for item in value]
    return value
