"""How images come to the device: it holds them, they are read on demand, or streamed ahead."""

import queue
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.base.resources import usable_cores
from training.data.encoded_images import EncodedImages

# uint8 images (N, H, W, 3) and their rows, int64 (N,), both on the device.
Chosen: TypeAlias = tuple[Tensor, Tensor]
Images: TypeAlias = NDArray[np.uint8]
Rows: TypeAlias = NDArray[np.int64]

# Images stay on the GPU if they take at most this share of its free memory.
_RESIDENT_SHARE = 0.4
_UPLOAD_BYTES = 64 << 20
_BUFFERS = 3  # one in use, one ready, one being filled
_GATHER_THREADS = 4


class Feed(Protocol):
    """Yields the images of each line of row numbers (steps, batch_size), on the device."""

    def batches(self, rows: Rows) -> Generator[Chosen, None, None]: ...


def fits(images: Images, device: torch.device) -> bool:
    """Whether the images are decoded, and small enough for `device` to hold them."""
    if isinstance(images, EncodedImages):
        return False
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return images.nbytes <= _RESIDENT_SHARE * free


def open_feed(images: Images, device: torch.device, *, resident: bool) -> Feed:
    """The feed for `device`: `resident` says whether the device holds the images."""
    if not resident:
        return StreamedFeed(images, device)
    return DeviceFeed(images, device) if device.type == "cuda" else HostFeed(images)


class HostFeed:
    """Reads rows of the array, or of its map, when they are asked for."""

    def __init__(self, images: Images) -> None:
        self._images = images

    def batches(self, rows: Rows) -> Generator[Chosen, None, None]:
        for chosen in rows:
            yield torch.from_numpy(self._images[chosen]), torch.from_numpy(chosen)


class DeviceFeed:
    """Gathers rows on the GPU, which holds all images; only row numbers are copied to it."""

    def __init__(self, images: Images, device: torch.device) -> None:
        self._images = torch.empty(images.shape, dtype=torch.uint8, device=device)
        step = max(1, _UPLOAD_BYTES // images[0].nbytes)
        for start in range(0, len(images), step):
            part = np.array(images[start : start + step])
            self._images[start : start + step] = torch.from_numpy(part).to(device)

    def batches(self, rows: Rows) -> Generator[Chosen, None, None]:
        for chosen in torch.from_numpy(np.ascontiguousarray(rows)).to(self._images.device):
            yield self._images[chosen], chosen


class StreamedFeed:
    """A thread gathers rows ahead; on CUDA into pinned buffers, copied by a stream of their own.

    Where images are encoded, the thread has processes decode them.
    """

    def __init__(self, images: Images, device: torch.device) -> None:
        self._images, self._device = images, device
        self._slots: list[_Slot] = []

    def batches(self, rows: Rows) -> Generator[Chosen, None, None]:
        batch_shape = (rows.shape[1], *self._images.shape[1:])
        if not self._slots or self._slots[0].shape != batch_shape:
            self._slots = [_Slot(batch_shape, self._device) for _ in range(_BUFFERS)]
        free: queue.SimpleQueue[_Slot | None] = queue.SimpleQueue()
        ready: queue.SimpleQueue[_Slot | BaseException] = queue.SimpleQueue()
        for slot in self._slots:
            free.put(slot)
        thread = threading.Thread(
            target=self._fill, args=(rows, free, ready), name="batches", daemon=True
        )
        thread.start()
        try:
            for _ in rows:
                filled = ready.get()
                if isinstance(filled, BaseException):
                    raise filled
                try:
                    yield filled.arrive()
                finally:
                    filled.leave()
                free.put(filled)
        finally:
            free.put(None)  # ends the thread if it waits for a buffer
            thread.join()

    def _fill(
        self,
        rows: NDArray[np.int64],
        free: "queue.SimpleQueue[_Slot | None]",
        ready: "queue.SimpleQueue[_Slot | BaseException]",
    ) -> None:
        threads = min(_GATHER_THREADS, usable_cores())
        try:
            with ThreadPoolExecutor(threads) as pool:
                for chosen in rows:
                    if (slot := free.get()) is None:
                        return
                    slot.reuse()
                    if isinstance(self._images, EncodedImages):
                        slot.host_rows[:] = chosen
                        self._images.take(chosen, out=slot.host_images)
                    else:
                        gather = partial(self._gather, chosen, slot)
                        list(pool.map(gather, np.array_split(np.arange(len(chosen)), threads)))
                    slot.send()
                    ready.put(slot)
        except BaseException as error:  # of any kind: the training loop must raise it
            ready.put(error)

    def _gather(self, chosen: NDArray[np.int64], slot: "_Slot", part: NDArray[np.intp]) -> None:
        if len(part):
            where = slice(part[0], part[-1] + 1)
            rows = slot.host_rows[where]
            rows[:] = chosen[where]
            # With mode="clip", np.take writes to `out` directly. No row number is out of range.
            np.take(self._images, rows, axis=0, out=slot.host_images[where], mode="clip")


class _Slot:
    """The buffers of a batch: pinned ones and ones on the GPU; on a CPU, both are the same."""

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self.shape = shape
        cuda = device.type == "cuda"
        images = torch.empty(shape, dtype=torch.uint8, pin_memory=cuda)
        rows = torch.empty(shape[0], dtype=torch.int64, pin_memory=cuda)
        self.host_images, self.host_rows = images.numpy(), rows.numpy()
        self._host, self._on_device = (images, rows), (images, rows)
        self._stream: torch.cuda.Stream | None = None
        if cuda:
            self._on_device = (images.to(device), rows.to(device))
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._sent = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._left = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def reuse(self) -> None:
        """Waits until the last copy has read the pinned buffers."""
        if self._stream is not None:
            self._sent.synchronize()

    def send(self) -> None:
        """Queues the copy to the device, which begins when the work on the former batch is done."""
        if self._stream is not None:
            self._stream.wait_event(self._left)
            with torch.cuda.stream(self._stream):
                for target, source in zip(self._on_device, self._host, strict=True):
                    target.copy_(source, non_blocking=True)
                self._sent.record()

    def arrive(self) -> Chosen:
        """The batch; work on it in the current stream begins after its copy."""
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_event(self._sent)
        return self._on_device

    def leave(self) -> None:
        """Marks the end of the work on the batch in the current stream."""
        if self._stream is not None:
            self._left.record(torch.cuda.current_stream(self._stream.device))
