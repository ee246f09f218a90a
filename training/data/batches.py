"""Training batches: the order of an epoch, the share of a rank, and the seconds spent waiting."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.base.errors import UserError
from training.data.rows_to_device import fits, open_feed
from training.data.wait_time import open_clock

# From the rows (steps, batch_size) of an epoch and its number to as many others.
Companions: TypeAlias = Callable[[NDArray[np.int64], int], NDArray[np.int64]]


def epoch_order(count: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of `count` that depends on nothing but seed and epoch."""
    return np.random.default_rng((seed, epoch)).permutation(count)


class Batches:
    """The batches of every epoch: shuffled, the last incomplete one dropped, sharded by rank.

    All ranks draw one permutation; of each `world_size * batch_size` images in its order, rank r
    takes the r-th `batch_size`. So two ranks with batch b see what one process with batch 2b sees.

    `subset` names the images that are trained on (None: all), so that some can be held out without
    a copy of the others. `companions` names as many more images for
    every batch, which follow its own.

    `resident` says whether the device holds the arrays; None: on CUDA if they take at most 40 % of
    its free memory, on the CPU always, where it means that rows are read when they are asked for.
    Otherwise a thread gathers the next batches meanwhile, on CUDA into pinned buffers.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        *,
        batch_size: int,
        device: torch.device,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        resident: bool | None = None,
        subset: NDArray[np.int64] | None = None,
        companions: Companions | None = None,
    ) -> None:
        self._companions = companions
        self._subset = np.arange(len(images)) if subset is None else subset
        count = len(self._subset)
        if not 1 <= batch_size * world_size <= count:
            each = f" in each of {world_size} processes" if world_size > 1 else ""
            raise UserError(
                f"batch size {batch_size}{each} does not fit {count} training images; "
                f"name one from 2 to {count // world_size} with --batch-size, or add images"
            )
        self.resident = fits(images, device) if resident is None else resident
        self._shape = (count // (batch_size * world_size), world_size, batch_size)
        self._seed = seed
        self._rank = rank
        self._feed = open_feed(images, labels, device, resident=self.resident)
        self._clock = open_clock(device)

    def __len__(self) -> int:
        return self._shape[0]

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields uint8 (batch_size, H, W, 3) and int64 (batch_size,), both on the device.

        Starts with batch `first`, for a run that goes on inside an epoch. A batch is valid for the
        work that is queued before the next one is asked for.
        """
        order = epoch_order(len(self._subset), seed=self._seed, epoch=epoch)
        used = self._subset[order[: int(np.prod(self._shape))]]
        rows = used.reshape(self._shape)[:, self._rank]
        if self._companions is not None:
            rows = np.concatenate([rows, self._companions(rows, epoch)], axis=1)
        rows = rows[first:]
        self._clock.reset()
        batches = self._feed.batches(rows)
        try:
            for _ in rows:
                with self._clock.waiting():
                    batch = next(batches)
                yield batch
        finally:
            batches.close()

    @property
    def wait_seconds(self) -> float:
        """Seconds of the last epoch in which the device had no batch to work on.

        On CUDA measured by events, from the end of the work queued so far to the arrival of the
        next batch; reading it waits for the stream.
        """
        return self._clock.seconds()
