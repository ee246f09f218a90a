"""Which epoch of a training for int8 is kept: the one that answers most like the float32 student.

Training through rounded numbers moves the weights of a student that was trained to its end. It
gains where rounding had moved the answers far, and may lose a little where it had not. So the start
counts as epoch 0, and is kept where no epoch brings the answers nearer to those of float32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from runtime.model.figures import log_softmax

_FEWEST, _MOST = 32, 2048  # images that judge; fewer held out ones would judge by chance

Answer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # uint8 (N, S, S, 3) to logits (N, K)


def judging_rows(
    train: NDArray[np.int64], choosing: NDArray[np.int64]
) -> tuple[NDArray[np.int64], str]:
    """Which training images judge the epochs, and what they are, in words.

    Args:
        train: int64 (N,), the rows that are trained on.
        choosing: int64 (V,), the held out rows that may choose an epoch.

    Returns:
        At most 2,048 of the held out rows. Where there are fewer than 32 of them, rows that are
        trained on: float32 answers them without a label, so that they can be judged, too.
    """
    rows, words = (choosing, "held out") if len(choosing) >= _FEWEST else (train, "training")
    return rows[:: -(-len(rows) // _MOST)], words


def divergence(exact: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """KL( σ(exact) ‖ σ(found) ) of logits (N, K), the mean over the rows, in nats."""
    taught = log_softmax(exact)
    return float((np.exp(taught) * (taught - log_softmax(found))).sum(axis=1).mean())


@dataclass(frozen=True)
class _Kept:
    """The nearest epoch so far: its weights are on the CPU."""

    epoch: int
    divergence: float
    student: dict[str, Tensor]


class NearestEpoch:
    """Keeps the student of the nearest epoch."""

    def __init__(self, images: NDArray[np.uint8], exact: Answer) -> None:
        """Judges by these images (N, S, S, 3), to which the float32 student answers `exact`."""
        self._images = images
        self._exact = exact(images)
        self._kept: _Kept | None = None
        self._start: float | None = None

    def judge(self, epoch: int, answer: Answer, student: dict[str, Tensor]) -> None:
        """Takes over the `student` of an epoch, 0 before the first one, if it is the nearest."""
        found = divergence(self._exact, answer(self._images))
        if epoch == 0:
            self._start = found
        if self._kept is None or found < self._kept.divergence:
            self._kept = _Kept(epoch, found, student)

    @property
    def student(self) -> dict[str, Tensor]:
        """The weights of the nearest epoch."""
        assert self._kept is not None, "no epoch was judged"
        return self._kept.student

    def figures(self) -> dict[str, Any]:
        """The epoch that was chosen, its divergence in nats, the start's, and the images."""
        assert self._kept is not None, "no epoch was judged"
        return {
            "chosen_epoch": self._kept.epoch,
            "divergence": self._kept.divergence,
            "start_divergence": self._start,
            "judging_images": len(self._images),
        }

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, as plain types and CPU tensors."""
        return {**self.figures(), "student": self.student}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave."""
        self._kept = _Kept(state["chosen_epoch"], state["divergence"], state["student"])
        self._start = state["start_divergence"]
