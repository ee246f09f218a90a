"""Training batches: the order of an epoch, the share of a process, and the time spent waiting."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.base.errors import UserError
from training.data.rare_classes import balanced_order
from training.data.rows_to_device import fits, open_feed

_PARTNERS = 1  # sets the draws of partners apart from those of an epoch's order


class Batch(NamedTuple):
    """Training images, everything on the device.

    `images` are uint8 (N, H, W, 3) as they are stored; once the step has augmented them, float32
    (N, 3, S, S), normalised. `labels` are int64 (N,), or float32 probabilities (N, K) of augmented
    images that were mixed. `rows` is int64 (N,): which training images these are. `partners` are
    like `images`, and None where no method asks for them.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor
    partners: Tensor | None

    def each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with `change` made to each of its tensors."""
        partners = None if self.partners is None else change(self.partners)
        return Batch(change(self.images), change(self.labels), change(self.rows), partners)


def epoch_order(count: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of `count` that depends on nothing but seed and epoch."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def partner_rows(
    rows: NDArray[np.int64], labels: NDArray[np.int64], *, seed: int, epoch: int
) -> NDArray[np.int64]:
    """For each of `rows` (steps, N) another of them of the same class, itself if it is alone."""
    generator = np.random.default_rng((seed, epoch, _PARTNERS))
    flat = rows.reshape(-1)
    order = np.argsort(labels[flat], kind="stable")
    sorted_rows, sorted_labels = flat[order], labels[flat[order]]
    starts = np.searchsorted(sorted_labels, sorted_labels)
    counts = np.searchsorted(sorted_labels, sorted_labels, side="right") - starts
    # A step of 1 to count - 1 places round the class never leads to the image itself.
    steps = 1 + (generator.random(len(flat)) * np.maximum(1, counts - 1)).astype(np.int64)
    partners = np.empty_like(flat)
    places = starts + (np.arange(len(flat)) - starts + steps) % counts
    partners[order] = sorted_rows[places]
    return partners.reshape(rows.shape)


class Batches:
    """The batches of every epoch: shuffled, the last incomplete one dropped, sharded by rank.

    All processes draw the same permutation. Of each `world_size * batch_size` images in its order,
    rank r takes the r-th `batch_size`. So two processes with batch size b see together what one
    process with batch size 2b sees.

    Args:
        images: uint8 (M, H, W, 3), possibly a memory map.
        labels: int64 (M,).
        batch_size: images of a batch, in each process.
        device: where batches arrive.
        seed: of the order and of the partners.
        rank: the number of this process.
        world_size: how many processes there are.
        resident: whether the device holds the images. None: on CUDA if they take at most 40 % of
            its free memory; on the CPU always, where it means that rows are read when they are
            asked for. Otherwise a thread gathers the next batches meanwhile, on CUDA into pinned
            buffers. Encoded images are never held: processes decode the next batches.
        subset: rows of the images that are trained on, None for all. The others can be held out
            without a copy of these.
        partners: whether each batch has, for each of its images, another one of the class.
        balanced: whether each class is equally often in an epoch, which is as long as otherwise.

    Raises:
        UserError: if the batch size does not fit the number of images.
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
        partners: bool = False,
        balanced: bool = False,
    ) -> None:
        self._subset = np.arange(len(images)) if subset is None else subset
        count = len(self._subset)
        if not 1 <= batch_size * world_size <= count:
            each = f" in each of {world_size} processes" if world_size > 1 else ""
            most = count // world_size
            named = f"name one from 2 to {most} with --batch-size, or " if most > 1 else ""
            raise UserError(
                f"batch size {batch_size}{each} does not fit {count} training images; "
                f"{named}add images"
            )
        self.resident = fits(images, device) if resident is None else resident
        self._shape = (count // (batch_size * world_size), world_size, batch_size)
        self._seed = seed
        self._rank = rank
        self._partners = partners
        self._balanced = balanced
        self._labels = labels
        self._labels_there = torch.from_numpy(np.array(labels)).to(device)
        self._feed = open_feed(images, device, resident=self.resident)
        self._clock = _open_clock(device)

    def __len__(self) -> int:
        return self._shape[0]

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """Yields the stored batches of an epoch, from batch `first` on, for a resumed run.

        A batch is valid for the work that is queued before the next one is asked for.
        """
        rows = self._subset[self._order(epoch)].reshape(self._shape)[:, self._rank]
        if self._partners:
            others = partner_rows(rows, self._labels, seed=self._seed, epoch=epoch)
            rows = np.concatenate([rows, others], axis=1)
        rows = rows[first:]
        self._clock.reset()
        arriving = self._feed.batches(rows)
        try:
            for _ in rows:
                with self._clock.waiting():
                    chosen = next(arriving)
                yield self._batch(*chosen)
        finally:
            arriving.close()

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """Which of the subset's images an epoch uses, in order."""
        length = int(np.prod(self._shape))
        if self._balanced:
            labels = self._labels[self._subset]
            return balanced_order(labels, length=length, seed=self._seed, epoch=epoch)
        return epoch_order(len(self._subset), seed=self._seed, epoch=epoch)[:length]

    def _batch(self, images: Tensor, rows: Tensor) -> Batch:
        """The batch of images that came with their partners, if there are any, behind them."""
        if not self._partners:
            return Batch(images, self._labels_there[rows], rows, None)
        (images, partners), (rows, _) = images.chunk(2), rows.chunk(2)
        return Batch(images, self._labels_there[rows], rows, partners)

    @property
    def wait_seconds(self) -> float:
        """Seconds of the last epoch in which the device had no batch to work on.

        On CUDA it is measured by events, from the end of the work queued so far to the arrival of
        the next batch; reading it waits for the stream.
        """
        return self._clock.seconds()


class _WaitClock(Protocol):
    """Adds up the time that is spent inside of `waiting()`, since the last `reset()`."""

    def reset(self) -> None: ...
    def waiting(self) -> AbstractContextManager[None]: ...
    def seconds(self) -> float: ...


def _open_clock(device: torch.device) -> _WaitClock:
    """The clock for work on `device`."""
    return _StreamClock() if device.type == "cuda" else _WallClock()


class _WallClock:
    def __init__(self) -> None:
        self._seconds = 0.0

    def reset(self) -> None:
        self._seconds = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - start

    def seconds(self) -> float:
        return self._seconds


class _StreamClock:
    """Times the CUDA stream: the Python thread runs ahead of the device and waits elsewhere."""

    def __init__(self) -> None:
        self._waits: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def reset(self) -> None:
        self._waits.clear()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        idle = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        ready = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        idle.record()
        yield
        ready.record()
        self._waits.append((idle, ready))

    def seconds(self) -> float:
        if not self._waits:
            return 0.0
        self._waits[-1][1].synchronize()
        milliseconds: list[float] = [idle.elapsed_time(ready) for idle, ready in self._waits]
        return sum(milliseconds) / 1000
