"""What DSR compares a batch with: the ranking that it remembers from earlier batches.

The authors' code keeps the previous batch row by row; their abstract asks for "a consistent shape
of ranked model output for all data", which the batch's mean shape and its moving average take
literally. The recipe chooses.
"""

import torch
from torch import Tensor

from training.config.recipe import DsrTeacherKind
from training.methods.losses import ranked


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

    @property
    def is_shared(self) -> bool:
        """Whether the processes of a run have one teacher, rather than one for their own rows."""
        return self._kind != "previous"

    def present(self) -> Tensor:
        """1.0 after the first update, before it 0.0: the first batch has nothing to agree with."""
        return self.updates.clamp(max=1.0)

    def shape_of(self, logits: Tensor) -> Tensor:
        """What `update` takes of a batch: its ranked logits, or their mean (1, K)."""
        rows = ranked(logits)
        return rows.mean(dim=0, keepdim=True) if self.is_shared else rows

    def update(self, shape: Tensor) -> None:
        """Remembers the shape of the batch that was just learned from."""
        self.updates += 1
        if self._kind == "ema":
            # The first updates average evenly, so the zeros at the start never weigh in.
            self.ranked.lerp_(shape, torch.clamp(1 / self.updates, min=1 - self._momentum))
        else:
            self.ranked.copy_(shape)

    def state_dict(self) -> dict[str, Tensor]:
        return {"ranked": self.ranked, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.ranked.copy_(state["ranked"])
        self.updates.copy_(state["updates"])
