"""One update of the student: augment, forward, the methods' terms, backward, optimizer."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.data.batches import Batch
from training.engine.optimizers import set_learning_rate
from training.engine.process_group import ProcessGroup
from training.engine.weight_average import WeightAverage
from training.methods.method import Method, Outputs, Student, Terms
from training.networks.layers import batch_counters

# uint8 images (N, H, W, 3) and labels to normalised images (N, 3, S, S) and labels or targets.
Prepare: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
# An augmented batch, and the partners of each method by name, to the terms of each method.
Loss: TypeAlias = Callable[[Batch, dict[str, Tensor | None]], dict[str, Terms]]


class TermLog:
    """The terms of the latest steps, kept on the device until they are read.

    Reading waits for the device, so steps do not read; and a loss that is not finite can still be
    traced to its step.
    """

    def __init__(self, names: Sequence[str], *, capacity: int, device: torch.device) -> None:
        self.names = tuple(names)
        self._rows = torch.zeros(capacity, len(self.names), device=device)
        self._position = torch.zeros(1, dtype=torch.int64, device=device)

    def append(self, terms: dict[str, Tensor]) -> None:
        """Adds the scalars of one step, by name."""
        values = torch.stack([terms[name].detach() for name in self.names])
        self._rows.index_copy_(0, self._position, values[None])
        self._position += 1

    def take(self, group: ProcessGroup) -> NDArray[np.float64]:
        """Terms (steps, terms) since the last call, averaged over the processes."""
        rows = self._rows[: int(self._position)]
        group.average([rows])
        taken = rows.double().cpu().numpy()
        self._position.zero_()
        return taken


@dataclass(frozen=True, kw_only=True)
class StepParts:
    """What a step works on."""

    student: nn.Module
    reader: Student  # runs the student
    methods: nn.ModuleDict  # of Method, by name
    optimizer: torch.optim.Optimizer
    prepare: Prepare
    average: WeightAverage | None
    log: TermLog
    group: ProcessGroup
    scale: Tensor  # the methods' `Setting.scale`
    device: torch.device
    compiled: bool = False  # by torch.compile, forward and backward, with fast layers
    precision: str = "fp32"  # or "bf16": what the networks compute in


class Step:
    """Updates a student in place, one batch at a time.

    An update has three parts, so that a captured step can replay the outer two as CUDA graphs and
    leave the exchange between processes outside: `compute` (augment, forward, backward), `exchange`
    (average gradients) and `apply` (optimizer, log, the methods' memory, average of the weights).
    """

    def __init__(self, parts: StepParts) -> None:
        self._parts = parts
        self._methods: dict[str, Method] = dict(parts.methods.items())  # type: ignore[arg-type]
        self.loss: Loss = _compiled(self._terms) if parts.compiled else self._terms
        self._counters = [*batch_counters(parts.student), *batch_counters(parts.methods)]
        self._stored: Batch | None = None
        self._given: dict[str, Terms] = {}

    def __call__(self, batch: Batch, *, learning_rate: float, scale: float) -> None:
        """One update on a stored batch."""
        self.set_rates(learning_rate=learning_rate, scale=scale)
        self.compute(batch)
        self.exchange()
        self.apply()

    def set_rates(self, *, learning_rate: float, scale: float) -> None:
        """What changes from step to step: `scale` multiplies weights that warm up."""
        set_learning_rate(self._parts.optimizer, learning_rate)
        self._parts.scale.fill_(scale)

    def compute(self, batch: Batch) -> None:
        """Gradients of the sum of all terms on a stored batch."""
        augmented, partners = self._augmented(batch)
        given = self.loss(augmented, partners)
        values = [value for terms in given.values() for value in terms.values.values()]
        self._parts.optimizer.zero_grad(set_to_none=True)
        torch.stack(values).sum().backward()  # type: ignore[no-untyped-call]
        self._stored = batch
        self._given = {
            name: Terms({key: value.detach() for key, value in terms.values.items()}, terms.memory)
            for name, terms in given.items()
        }

    def exchange(self) -> None:
        """Averages over the processes what they must agree on."""
        parts = self._parts
        if parts.group.world_size == 1:
            return
        shared = [p.grad for group in parts.optimizer.param_groups for p in group["params"]]
        for name, method in self._methods.items():
            shared += [self._given[name].memory[key] for key in method.averaged_memory]
        parts.group.average(shared)

    def apply(self) -> None:
        """The update itself, and what is remembered of it."""
        parts = self._parts
        assert self._stored is not None
        parts.optimizer.step()
        if self._counters:
            torch._foreach_add_(self._counters, 1)
        parts.log.append({k: v for terms in self._given.values() for k, v in terms.values.items()})
        for name, method in self._methods.items():
            method.remember(self._given[name].memory, self._stored)
        if parts.average is not None:
            parts.average.update()

    def _augmented(self, stored: Batch) -> tuple[Batch, dict[str, Tensor | None]]:
        """The batch with fresh augmentation, and the partners of each method."""
        # This order of draws is part of every recorded result: class partners, images, others.
        same_class = self._augment(stored.partners) if stored.partners is not None else None
        images, labels = self._parts.prepare(stored.images, stored.labels)
        partners: dict[str, Tensor | None] = {}
        for name, method in self._methods.items():
            wanted = method.partner_images(stored)
            if wanted is None or wanted is stored.partners:
                partners[name] = same_class if wanted is not None else None
            else:
                partners[name] = self._augment(wanted)
        return Batch(images, labels, stored.rows, None), partners

    def _augment(self, images: Tensor) -> Tensor:
        # Labels only matter to mixing, which a recipe with partners has off.
        labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        return self._parts.prepare(images, labels)[0]

    def _terms(self, batch: Batch, partners: dict[str, Tensor | None]) -> dict[str, Terms]:
        student = _shared_pass(self._parts.reader, batch.images)
        with _autocast(self._parts.device, self._parts.precision):
            return {
                name: method.terms(student, batch._replace(partners=partners[name]))
                for name, method in self._methods.items()
            }


def _shared_pass(reader: Student, images: Tensor) -> Student:
    """The student, which passes over the batch's own `images` once for all methods."""
    kept: list[Outputs] = []

    def student(wanted: Tensor) -> Outputs:
        if wanted is not images:
            return reader(wanted)
        if not kept:
            kept.append(reader(wanted))
        return kept[0]

    return student


def _compiled(loss: Loss) -> Loss:
    """`loss` and its backward as fused kernels.

    TorchInductor writes a value to memory that has more than one reader and more than four inputs,
    instead of computing it in each reader. A normalised activation has five: its input, mean,
    deviation, weight and bias. Raising the limit saves a pass over every activation (RESULTS.md).
    """
    options: dict[str, str | int | bool | Callable[..., object]] = {"realize_reads_threshold": 8}
    # A process that has compiled too many steps must not go on, slowly, without compiling.
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    compiled: Loss = torch.compile(loss, dynamic=False, options=options)
    return compiled


def _autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """A context that computes in `precision`.

    It keeps no cache of converted weights, because a captured graph would read the cache of another
    step.
    """
    return torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=precision == "bf16", cache_enabled=False
    )
