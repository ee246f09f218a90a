"""The threads of a batcher: how they start and end, and what happens if they end by themselves."""

import logging
import os
import threading
from abc import abstractmethod
from collections import deque
from concurrent.futures import InvalidStateError
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import sleep

from runtime.base.errors import BackendError, DeviceLostError
from runtime.base.parallel import start_threads
from runtime.base.resources import Closable
from runtime.images.pixel_budget import is_room_for
from runtime.inference.pending_image import PendingImage

_LOOK_SECONDS = 0.02  # between two looks at whether there is room


class BatchThreads(Closable):
    """Threads that decode images, and threads that run the network.

    Attributes:
        decoders: the threads that decode.
        runners: the threads that run the network.
        device_lost: whether this process can never use the GPU of the network again.
    """

    def __init__(self, *, decoders: int, runners: int, niceness: int) -> None:
        """Starts the threads, which is the last thing that a batcher does when it is made."""
        self._changed = threading.Condition()
        self._unanswered: set[PendingImage] = set()  # accepted
        # An executor of the standard library would take 30 us more for each image.
        self._inbox: SimpleQueue[PendingImage | None] = SimpleQueue()
        self._aside: deque[PendingImage] = deque()  # large ones, until there is room for them
        self._closed = False
        self._failed = False  # a thread has ended by an error
        self.device_lost = False
        self._process = os.getpid()
        self.decoders, self.runners = [
            start_threads(name, work, count, niceness=niceness, failed=self._abandon)
            for name, work, count in (
                ("decode", self._decode_all, decoders),
                ("network", self._run_all, runners),
            )
        ]

    @property
    def forked(self) -> bool:
        """Whether this is a copy of the process that opened the batcher: threads are not copied."""
        return os.getpid() != self._process

    def close(self) -> None:
        """Accepts no more images, answers all that were accepted, and ends the threads."""
        if self.forked:
            return  # the threads are those of another process, and may have held the lock
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for _ in self.decoders:
            self._inbox.put(None)  # one for each decoder, after all accepted images
        for thread in (*self.decoders, *self.runners):
            thread.join()

    def refusal(self) -> BackendError:
        """Why no image is accepted."""
        if self.forked:
            reason = "was opened before this process was forked; open it in this process"
        elif self._closed:
            reason = "is closed and accepts no more images"
        elif self.device_lost:
            reason = "has lost its GPU by an error of CUDA; only a new process can use it again"
        else:
            reason = "has lost a thread by an error; open it again"
        return BackendError(f"the batcher {reason}")

    def _note_lost_device(self, error: BaseException) -> None:
        """Accepts no more images if `error` says that no batch can be answered any more."""
        if isinstance(error, DeviceLostError) and not self.device_lost:
            self.device_lost = True
            logging.getLogger(__name__).error("no more images are accepted: %s", error)

    def _abandon(self) -> None:
        """Fails all accepted images, because a thread has ended that may have held some of them."""
        with self._changed:
            self._failed = True
            abandoned = list(self._unanswered)
            self._unanswered.clear()
            self._changed.notify_all()
        for image in abandoned:
            with suppress(InvalidStateError):  # it was cancelled
                image.future.set_exception(self.refusal())

    @abstractmethod
    def _decode_all(self) -> None:
        """The loop of a decoder."""

    def _put_aside(self, request: PendingImage, pixels: int) -> None:
        """Keeps a large picture that has no room, so that small ones need not wait behind it."""
        request.pixels = pixels
        with self._changed:
            self._aside.append(request)

    def _next_beside_large(self) -> PendingImage | None:
        """What to decode next while some were put aside; None behind the last one of all."""
        while True:
            if (request := self._fitting()) is not None:
                return request
            try:
                request = self._inbox.get(timeout=_LOOK_SECONDS)
            except Empty:
                if not self._aside:
                    return self._inbox.get()
                continue
            if request is not None or not self._aside:
                return request
            self._inbox.put(None)  # all that were accepted are answered before the end
            sleep(_LOOK_SECONDS)

    def _fitting(self) -> PendingImage | None:
        """The first one that was put aside, if there is room for it or nobody wants it."""
        with self._changed:
            if self._aside and (
                self._aside[0].future.unwanted or is_room_for(self._aside[0].pixels)
            ):
                return self._aside.popleft()
        return None

    @abstractmethod
    def _run_all(self) -> None:
        """The loop of a runner."""
