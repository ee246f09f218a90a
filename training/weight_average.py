"""An exponential moving average of the student's weights, deployed instead of them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """Averages parameters and running statistics alike; counters are taken over."""

    def __init__(self, student: nn.Module, *, decay: float) -> None:
        self._current = student.state_dict(keep_vars=True)
        self.averaged = {name: value.detach().clone() for name, value in self._current.items()}
        self._average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def update(self) -> None:
        """Takes one step's weights in; no branch depends on the device."""
        floating = [name for name, value in self.averaged.items() if value.is_floating_point()]
        self._average(
            [self.averaged[name] for name in floating],
            [self._current[name].detach() for name in floating],
            None,
        )
        for name, value in self.averaged.items():
            if not value.is_floating_point():
                value.copy_(self._current[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The student has the averaged weights while the block runs."""
        former = {name: value.detach().clone() for name, value in self._current.items()}
        self._write(self.averaged)
        try:
            yield
        finally:
            self._write(former)

    @torch.no_grad()
    def _write(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self._current[name].copy_(value)

    def load(self, averaged: dict[str, Tensor]) -> None:
        """Goes on from the average of a checkpoint."""
        for name, value in averaged.items():
            self.averaged[name].copy_(value)

    def restart(self) -> None:
        """Begins with the student's weights of now."""
        self.load({name: value.detach() for name, value in self._current.items()})
