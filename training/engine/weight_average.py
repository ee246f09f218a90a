"""An exponential moving average of the student's weights, deployed instead of them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Averages parameters and running statistics; integer counters are copied.

    After t updates the next one decays the average by min(decay, (1 + t) / (10 + t)), as
    TensorFlow's `tf.train.ExponentialMovingAverage` does with `num_updates`. At a constant decay of
    0.999 the random weights of the start would still be 82 % of the average after 200 updates.
    """

    def __init__(self, student: nn.Module, *, decay: float) -> None:
        self._current = student.state_dict(keep_vars=True)
        self.averaged = {name: value.detach().clone() for name, value in self._current.items()}
        self._decay = decay
        # It lies on the device, so that each replay of a captured step adds one.
        device = next(iter(self.averaged.values())).device
        self.updates = torch.zeros((), device=device)

    @torch.no_grad()
    def update(self) -> None:
        """Adds the weights of one step. Nothing here waits for the device or reads its values."""
        floating = [name for name, value in self.averaged.items() if value.is_floating_point()]
        averaged = [self.averaged[name] for name in floating]
        share = torch.clamp(9 / (10 + self.updates), min=1 - self._decay)  # of what is new
        steps = torch._foreach_sub([self._current[name].detach() for name in floating], averaged)
        torch._foreach_mul_(steps, share)
        torch._foreach_add_(averaged, steps)
        self.updates += 1
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
        """Takes the average of a checkpoint; `updates` is restored separately."""
        for name, value in averaged.items():
            self.averaged[name].copy_(value)

    def restart(self) -> None:
        """Starts again with the present weights of the student."""
        self.load({name: value.detach() for name, value in self._current.items()})
        self.updates.zero_()
