"""What DSR compares a batch with: the ranking that it remembers from earlier batches.

The authors' code keeps the previous batch row by row; their abstract asks for "a consistent shape
of ranked model output for all data", which the batch's mean shape and its moving average take
literally. The recipe chooses.
"""

import torch
from torch import Tensor, distributed

from training.losses import ranked
from training.recipe import DsrTeacherKind


class DsrTeacher:
    """Ranked logits (N, K), or one shape (1, K), carried from step to step.

    All state is on the device and `update` never branches on it, so that a captured step can hold
    it.
    """

    def __init__(
        self,
        kind: DsrTeacherKind,
        *,
        batch_size: int,
        num_classes: int,
        momentum: float,
        device: torch.device,
    ) -> None:
        self._kind = kind
        self._momentum = momentum
        rows = batch_size if kind == "previous" else 1
        self.ranked = torch.zeros(rows, num_classes, device=device)
        self.updates = torch.zeros((), device=device)

    def present(self) -> Tensor:
        """1.0 after the first update, before it 0.0: the first batch has nothing to agree with."""
        return self.updates.clamp(max=1.0)

    def update(self, logits: Tensor) -> None:
        """Takes over the ranking of this batch's logits (N, K)."""
        new = ranked(logits)
        self.updates += 1
        if self._kind == "previous":
            self.ranked.copy_(new)
            return
        shape = _mean_of_all_processes(new.mean(dim=0, keepdim=True))
        if self._kind == "mean":
            self.ranked.copy_(shape)
            return
        # The first updates average evenly, so the zeros at the start never weigh in.
        rate = torch.clamp(1 / self.updates, min=1 - self._momentum)
        self.ranked.lerp_(shape, rate)

    def state_dict(self) -> dict[str, Tensor]:
        return {"ranked": self.ranked.cpu(), "updates": self.updates.cpu()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.ranked.copy_(state["ranked"])
        self.updates.copy_(state["updates"])


def _mean_of_all_processes(shape: Tensor) -> Tensor:
    if distributed.is_initialized():
        distributed.all_reduce(shape)
        shape /= distributed.get_world_size()
    return shape
