"""An open model that runs batches: what every backend offers; checks of input and output."""

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import BackendError, UserError
from runtime.base.resources import Closable


class Threads(msgspec.Struct, frozen=True, kw_only=True):
    """How a backend uses the CPU.

    Attributes:
        intra_op: how many threads share the work of one operator; None: one for each core that
            this process may use.
        spinning: whether threads wait for work in a busy loop. This is up to 1.8 times as fast on
            an idle machine, and much slower on a machine that does other work.
    """

    intra_op: int | None = None
    spinning: bool = True


class Session(Closable):
    """One model file, opened on one backend. Safe to share between threads.

    Attributes:
        backend: the name of the backend that opened it.
        input_size: edge of the square input in pixels.
        num_classes: columns of the output.
        max_batch: the largest number of images of one `run`; None: any number.
        lanes: how many threads may call `run` at the same time with a gain.
        metadata: the texts that the file itself carries, such as its card; empty if it has none.
    """

    backend: str
    input_size: int
    num_classes: int
    max_batch: int | None = None
    lanes: int = 1
    metadata: Mapping[str, str] = MappingProxyType({})
    _CHANNELS: ClassVar[int] = 3

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (N, num_classes) of uint8 RGB images (N, size, size, 3).

        The result belongs to the caller: no later call changes it.

        Raises:
            UserError: the array has another dtype or shape, or more than `max_batch` images.
        """
        self._check(images)
        return self._run(np.ascontiguousarray(images))

    def warm_up(self, *batches: int) -> None:
        """Runs black images in batches of these sizes, so that later calls need no preparation."""
        for batch in batches:
            shape = (batch, self.input_size, self.input_size, self._CHANNELS)
            self._run(np.zeros(shape, np.uint8))

    @abstractmethod
    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Runs a batch that has been checked and is contiguous in memory."""

    def _check(self, images: Any) -> None:
        expected = (self.input_size, self.input_size, self._CHANNELS)
        if not isinstance(images, np.ndarray):
            raise UserError(
                f"received {type(images).__name__}, expected a uint8 array (N, *{expected})"
            )
        if images.dtype != np.uint8 or images.shape[1:] != expected or len(images) == 0:
            raise UserError(
                f"received {images.dtype} {images.shape}, expected uint8 (N, {expected[0]}, "
                f"{expected[1]}, {expected[2]}) with N >= 1"
            )
        if self.max_batch is not None and len(images) > self.max_batch:
            raise UserError(
                f"received {len(images)} images, this model takes at most {self.max_batch} at once"
            )


def require_numbers(probabilities: NDArray[np.float32], source: str) -> NDArray[np.float32]:
    """Returns `probabilities`, of any shape; `source` is the file that gave them.

    In float16 a picture that is unlike all test images may be too much for a layer. The order of
    what is no number would be that of the classes: the answer would be the first class.

    Raises:
        BackendError: one of them is not finite.
    """
    if not np.isfinite(probabilities).all():
        raise BackendError(
            f"{source} gives probabilities that are no numbers, expected 0 to 1: an overflow; "
            "use --precision fp32 (in Python precision='fp32')"
        )
    return probabilities
