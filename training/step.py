"""One update of the student: forward, objective, backward, optimizer."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.distiller import SelfDistiller
from training.dsr_teacher import DsrTeacher
from training.objective import Objective, total
from training.optimizers import set_learning_rate
from training.process_group import ProcessGroup
from training.weight_average import WeightAverage

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


class Step:
    """Updates a student in place, one batch at a time.

    An update has three parts, so that a captured step can replay the outer two as CUDA graphs and
    leave the exchange between processes outside: `compute` (augment, forward, backward), `exchange`
    (average gradients) and `apply` (optimizer, log, DSR's teacher, average of the weights).
    """

    def __init__(
        self,
        distiller: SelfDistiller,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        *,
        prepare: Prepare,
        dsr_teacher: DsrTeacher | None,
        average: WeightAverage | None,
        log: TermLog,
        group: ProcessGroup,
        device: torch.device,
        compiled: bool = False,
    ) -> None:
        self._distiller = distiller
        self._objective = objective
        self._optimizer = optimizer
        self._prepare = prepare
        self._dsr_teacher = dsr_teacher
        self._average = average
        self._log = log
        self._group = group
        self._device = device
        self._scale = torch.ones((), device=device)
        self.loss = torch.compile(self._terms, dynamic=False) if compiled else self._terms
        self._results: tuple[dict[str, Tensor], Tensor] | None = None

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
        set_learning_rate(self._optimizer, learning_rate)
        self._scale.fill_(scale)

    def compute(self, images: Tensor, labels: Tensor) -> None:
        """Gradients of the objective on a batch, and the ranking that DSR remembers of it."""
        pixels, targets = self._prepare(images, labels)
        terms, logits = self.loss(pixels, targets)
        self._optimizer.zero_grad(set_to_none=True)
        total(terms).backward()  # type: ignore[no-untyped-call]
        shape = self._dsr_teacher.shape_of(logits) if self._dsr_teacher else logits
        self._results = ({name: term.detach() for name, term in terms.items()}, shape)

    def exchange(self) -> None:
        """Averages over the processes what they must agree on."""
        if self._group.world_size == 1:
            return
        assert self._results is not None
        shared = [p.grad for g in self._optimizer.param_groups for p in g["params"]]
        if self._dsr_teacher is not None and self._dsr_teacher.is_shared:
            shared.append(self._results[1])
        self._group.average(shared)

    def apply(self) -> None:
        """The update itself, and what is remembered of it."""
        assert self._results is not None
        terms, shape = self._results
        self._optimizer.step()
        self._log.append(terms)
        if self._dsr_teacher is not None:
            self._dsr_teacher.update(shape)
        if self._average is not None:
            self._average.update()

    def _terms(self, pixels: Tensor, targets: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        with _autocast(self._device):
            outputs = self._distiller(pixels)
        terms = self._objective.terms(outputs, targets, self._dsr_teacher, scale=self._scale)
        return terms, outputs.logits.detach()


def precision_of(device: torch.device) -> str:
    """What the networks compute in: "bf16" on GPUs that have it, elsewhere "fp32"."""
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if native else "fp32"


def _autocast(device: torch.device) -> AbstractContextManager[None]:
    # Without its cache of cast weights, which must not outlive the capture of a graph.
    return torch.autocast(
        device.type,
        dtype=torch.bfloat16,
        enabled=precision_of(device) == "bf16",
        cache_enabled=False,
    )
