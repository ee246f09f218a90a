"""One update of the student: forward, objective, backward, optimizer."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.engine.optimizers import set_learning_rate
from training.engine.process_group import ProcessGroup
from training.engine.weight_average import WeightAverage
from training.methods.distiller import SelfDistiller
from training.methods.dsr_teacher import DsrTeacher
from training.methods.objective import Objective, total
from training.networks.fast_layers import batch_counters

# Normalised images and labels to the objective's terms and the ranking that DSR remembers.
Loss = Callable[[Tensor, Tensor], tuple[dict[str, Tensor], Tensor | None]]
# uint8 images (N, H, W, 3) and labels to normalised images (N, 3, S, S) and labels or targets.
Prepare = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class TermLog:
    """The objective's terms of the latest steps, kept on the device until they are read.

    Reading is what waits for the device, so steps do not; and a loss that is not finite can still
    be traced to its step.
    """

    def __init__(self, names: Sequence[str], *, capacity: int, device: torch.device) -> None:
        self.names = tuple(names)
        self._rows = torch.zeros(capacity, len(self.names), device=device)
        self._position = torch.zeros(1, dtype=torch.int64, device=device)

    def append(self, terms: dict[str, Tensor]) -> None:
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

    distiller: SelfDistiller
    objective: Objective
    optimizer: torch.optim.Optimizer
    prepare: Prepare
    dsr_teacher: DsrTeacher | None
    average: WeightAverage | None
    log: TermLog
    group: ProcessGroup
    device: torch.device
    compiled: bool = False  # by torch.compile, forward and backward, with fast layers


class Step:
    """Updates a student in place, one batch at a time.

    An update has three parts, so that a captured step can replay the outer two as CUDA graphs and
    leave the exchange between processes outside: `compute` (augment, forward, backward), `exchange`
    (average gradients) and `apply` (optimizer, log, DSR's teacher, average of the weights).
    """

    def __init__(self, parts: StepParts) -> None:
        self._parts = parts
        self._scale = torch.ones((), device=parts.device)
        self._precision = precision_of(parts.device)  # not asked by what is compiled
        self.loss = _compiled(self._terms) if parts.compiled else self._terms
        self._counters = batch_counters(parts.distiller)
        self._terms_now: dict[str, Tensor] = {}
        self._shape_now: Tensor | None = None  # the ranking that DSR's teacher takes over

    def __call__(
        self, images: Tensor, labels: Tensor, *, learning_rate: float, scale: float
    ) -> None:
        """One update on uint8 images (N, H, W, 3) and int64 labels (N,)."""
        self.set_rates(learning_rate=learning_rate, scale=scale)
        self.compute(images, labels)
        self.exchange()
        self.apply()

    def set_rates(self, *, learning_rate: float, scale: float) -> None:
        """What changes from step to step: `scale` multiplies both distillation weights."""
        set_learning_rate(self._parts.optimizer, learning_rate)
        self._scale.fill_(scale)

    def compute(self, images: Tensor, labels: Tensor) -> None:
        """Gradients of the objective on a batch, and the ranking that DSR remembers of it."""
        pixels, targets = self._parts.prepare(images, labels)
        terms, self._shape_now = self.loss(pixels, targets)
        self._differentiate(terms)

    def exchange(self) -> None:
        """Averages over the processes what they must agree on."""
        parts = self._parts
        if parts.group.world_size == 1:
            return
        shared = [p.grad for group in parts.optimizer.param_groups for p in group["params"]]
        if parts.dsr_teacher is not None and parts.dsr_teacher.is_shared:
            shared.append(self._shape_now)
        parts.group.average(shared)

    def apply(self) -> None:
        """The update itself, and what is remembered of it."""
        parts = self._parts
        parts.optimizer.step()
        if self._counters:
            torch._foreach_add_(self._counters, 1)
        parts.log.append(self._terms_now)
        if parts.dsr_teacher is not None and self._shape_now is not None:
            parts.dsr_teacher.update(self._shape_now)
        if parts.average is not None:
            parts.average.update()

    def _differentiate(self, terms: dict[str, Tensor]) -> None:
        self._parts.optimizer.zero_grad(set_to_none=True)
        total(terms).backward()  # type: ignore[no-untyped-call]
        self._terms_now = {name: term.detach() for name, term in terms.items()}

    def _terms(self, pixels: Tensor, targets: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
        parts, teacher = self._parts, self._parts.dsr_teacher
        with autocast(parts.device, self._precision):
            outputs = parts.distiller(pixels)
        terms = parts.objective.terms(outputs, targets, teacher, scale=self._scale)
        # Here, where a compiler sees that the loss has sorted the same logits already.
        return terms, teacher.shape_of(outputs.logits) if teacher is not None else None


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


def precision_of(device: torch.device) -> str:
    """What the networks compute in: "bf16" on GPUs that have it, elsewhere "fp32"."""
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if native else "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Computes in `precision`, without a cache of weights that outlived a capture."""
    return torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=precision == "bf16", cache_enabled=False
    )
