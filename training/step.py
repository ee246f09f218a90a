"""One update of the student: forward, objective, backward, optimizer."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.distiller import SelfDistiller
from training.dsr_teacher import DsrTeacher
from training.objective import Objective, total
from training.optimizers import set_learning_rate
from training.weight_average import WeightAverage

# uint8 images (N, H, W, 3) and labels to normalised images (N, 3, S, S) and labels or targets.
Prepare = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class TermLog:
    """The objective's terms of the latest steps, kept on the device until they are read.

    Reading is what waits for the device, so steps do not; and a non-finite loss can still be traced
    to its step.
    """

    def __init__(self, names: Sequence[str], *, capacity: int, device: torch.device) -> None:
        self.names = tuple(names)
        self.capacity = capacity
        self._rows = torch.zeros(capacity, len(self.names), device=device)
        self._position = torch.zeros(1, dtype=torch.int64, device=device)

    def append(self, terms: dict[str, Tensor]) -> None:
        values = torch.stack([terms[name].detach() for name in self.names])
        self._rows.index_copy_(0, self._position, values[None])
        self._position += 1

    def take(self) -> NDArray[np.float64]:
        """Terms (steps, terms) since the last call."""
        rows = self._rows[: int(self._position)].double().cpu().numpy()
        self._position.zero_()
        return rows


class Step:
    """Updates a student in place, one batch at a time."""

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
        device: torch.device,
    ) -> None:
        self._distiller = distiller
        self._objective = objective
        self._optimizer = optimizer
        self._dsr_teacher = dsr_teacher
        self._average = average
        self._log = log
        self._prepare = prepare
        self._scale = torch.ones((), device=device)
        self._autocast = autocast_dtype(device)
        self._device = device

    def __call__(
        self, images: Tensor, labels: Tensor, *, learning_rate: float, scale: float
    ) -> None:
        """One update on uint8 images (N, H, W, 3) and int64 labels (N,)."""
        set_learning_rate(self._optimizer, learning_rate)
        self._scale.fill_(scale)
        self._update(images, labels)

    def _update(self, images: Tensor, labels: Tensor) -> None:
        pixels, targets = self._prepare(images, labels)
        with torch.autocast(
            self._device.type, dtype=self._autocast, enabled=self._autocast is not None
        ):
            outputs = self._distiller(pixels)
        terms = self._objective.terms(outputs, targets, self._dsr_teacher, scale=self._scale)
        self._optimizer.zero_grad(set_to_none=True)
        total(terms).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._log.append(terms)
        if self._dsr_teacher is not None:
            self._dsr_teacher.update(outputs.logits)
        if self._average is not None:
            self._average.update()


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 on GPUs that compute in it, None (float32) elsewhere."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return None
