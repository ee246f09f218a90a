"""Concurrent requests, collected into batches: more images a second at a bounded wait.

accepted ──► decoding (a pool) ──► ready ──► a batch in the network ──► answered
└───────────── at most `max_queue` images; beyond that OverloadedError ───────┘
"""

import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from runtime.base.closable import Closable
from runtime.base.errors import BackendError, OverloadedError, UserError
from runtime.base.parallel import usable_cores
from runtime.inference.classifier import DEFAULT_TOP_K, Classifier, Predictions, check_top_k
from runtime.model.preprocess import ImageSource

_MAX_WAIT_MS = 3_600_000  # an hour
_SMOOTHING = 0.1  # weight of the newest batch in the running mean of seconds an image


@dataclass(eq=False)
class _Request:
    source: ImageSource
    name: str | None
    top_k: int
    future: "Future[Predictions]" = field(default_factory=Future)
    image: "NDArray[np.uint8] | None" = None  # the network's input, set when decoded


class Batcher(Closable):
    """Answers images from many threads through one classifier. Does not close the classifier.

    Attributes:
        observers: functions that are called with the size of each batch and its seconds.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        max_batch: int = 16,
        max_wait_ms: float = 5.0,
        max_queue: int = 128,
        decoders: int | None = None,
        runners: int = 1,
        niceness: int = 0,
    ) -> None:
        """Starts the threads.

        Args:
            classifier: what answers; stays the caller's.
            max_batch: most images of one run of the network.
            max_wait_ms: how long a decoded image waits for others that are being decoded. With
                nothing on the way it does not wait at all.
            max_queue: most images that are accepted and not yet answered.
            decoders: threads that decode; default one a core.
            runners: runs of the network at the same time; more than one pays on a CPU whose
                session has fewer threads than there are cores.
            niceness: steps of priority by which the threads stand back behind those that submit
                (Linux): a server whose cores are all in the network must still refuse at once.
        """
        # NaN is no time either, and one beyond what the system can count would end the runners.
        decoders = usable_cores() if decoders is None else decoders
        if min(max_batch, max_queue, decoders, runners) < 1 or not 0 <= max_wait_ms <= _MAX_WAIT_MS:
            raise UserError(
                f"max_batch {max_batch}, max_queue {max_queue}, decoders {decoders} and runners "
                f"{runners} must be 1 or more, max_wait_ms {max_wait_ms} from 0 to {_MAX_WAIT_MS}"
            )
        self.classifier = classifier
        self.max_batch = min(max_batch, classifier.session.max_batch or max_batch)
        self.max_queue = max_queue
        self._max_wait = max_wait_ms / 1e3
        self._niceness = niceness
        self.observers: list[Callable[[int, float], None]] = []
        self._changed = threading.Condition()
        self._ready: deque[_Request] = deque()
        self._accepted = 0  # not yet answered
        self._decoding = 0
        self._seconds_an_image = 0.0
        self._closed = False
        # A queue and threads of our own: an executor would cost each image 30 us more.
        self._inbox: SimpleQueue[_Request | None] = SimpleQueue()
        self._decoders = _start("decode", self._decode_all, decoders)
        self._runners = _start("network", self._run_all, runners)

    @property
    def waiting(self) -> int:
        """Images that are accepted and not yet answered."""
        return self._accepted

    @property
    def drain_seconds(self) -> float:
        """About how long the present queue takes."""
        return self._accepted * self._seconds_an_image

    @property
    def running(self) -> bool:
        """Whether images are accepted and every thread lives."""
        threads = (*self._decoders, *self._runners)
        return not self._closed and all(thread.is_alive() for thread in threads)

    def require_room(self, count: int) -> None:
        """OverloadedError if `count` more images would be refused now, BackendError if closed."""
        if self._closed:
            raise BackendError("the batcher is closed and accepts no more images")
        if self._accepted + count > self.max_queue:
            raise OverloadedError(
                f"{self._accepted} images are waiting and {count} more came, the limit is "
                f"{self.max_queue}; try again in {self.drain_seconds:.1f} s"
            )

    def submit(
        self, image: ImageSource, *, top_k: int = DEFAULT_TOP_K, name: str | None = None
    ) -> "Future[Predictions]":
        """Accepts an image or raises OverloadedError; the future may raise its ImageError."""
        return self.submit_all([image], top_k=top_k, names=[name])[0]

    def submit_all(
        self,
        images: Sequence[ImageSource],
        *,
        top_k: int = DEFAULT_TOP_K,
        names: Sequence[str | None] | None = None,
    ) -> "list[Future[Predictions]]":
        """Accepts all of the images or, with OverloadedError, none."""
        check_top_k(top_k)
        names = names if names is not None else [None] * len(images)
        requests = [_Request(image, name, top_k) for image, name in zip(images, names, strict=True)]
        with self._changed:
            self.require_room(len(requests))
            self._accepted += len(requests)
            self._decoding += len(requests)
            for request in requests:
                self._inbox.put(request)
        return [request.future for request in requests]

    def submit_prepared(
        self, images: Iterable[NDArray[np.uint8]], *, top_k: int = DEFAULT_TOP_K
    ) -> "list[Future[Predictions]]":
        """Accepts images that need no decoding and no resizing: all of them or none.

        Args:
            images: the network's inputs as `Classifier.prepare` returns them, each uint8 RGB
                (size, size, 3), or all in one array (N, size, size, 3). They are read when their
                batch is run, so do not change them before their answers are there.
            top_k: how many classes each answer lists.

        Raises:
            UserError: an array of another shape or dtype, or `top_k` below 1.
            OverloadedError: there is no room for all of them.
            BackendError: the batcher is closed.
        """
        check_top_k(top_k)
        requests = []
        for image in images:
            self.classifier.require_prepared(image)
            request = _Request(b"", None, top_k, image=image)
            request.future.set_running_or_notify_cancel()  # as for every image that is ready
            requests.append(request)
        with self._changed:
            self.require_room(len(requests))
            self._accepted += len(requests)
            self._ready.extend(requests)
            self._changed.notify_all()
        return [request.future for request in requests]

    def close(self) -> None:
        """Accepts nothing more, answers everything that was accepted, and ends the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for _ in self._decoders:
            self._inbox.put(None)  # behind all that was accepted
        for thread in (*self._decoders, *self._runners):
            thread.join()

    def _decode_all(self) -> None:
        """The loop of a decoder."""
        _stand_back(self._niceness)
        while (request := self._inbox.get()) is not None:
            self._prepare(request)

    def _prepare(self, request: _Request) -> None:
        """Decodes one image and hands it to the runners."""
        wanted = request.future.set_running_or_notify_cancel()
        failure: BaseException | None = None
        if wanted:
            try:
                request.image = self.classifier.prepare(request.source, name=request.name)
            except BaseException as error:  # the future is how its owner learns of it
                failure = error
        request.source = b""  # the file's content is not kept while the image waits
        with self._changed:
            self._decoding -= 1
            if wanted and failure is None:
                self._ready.append(request)
            else:
                self._accepted -= 1
            # The first image starts a runner's clock, the last one fills the batch; those between
            # need not wake anybody.
            if len(self._ready) == 1 or self._is_full():
                self._changed.notify_all()
        if failure is not None:
            request.future.set_exception(failure)

    def _run_all(self) -> None:
        """The loop of a runner."""
        _stand_back(self._niceness)
        while batch := self._next_batch():
            started = time.perf_counter()
            failure: BaseException | None = None
            answers: list[Predictions] = []
            try:
                answers = self._answers(batch)
            except BaseException as error:  # the next batch must be answered all the same
                failure = error
            # First: whoever has an answer may send the next image at once, and is not waiting.
            self._finish(batch, time.perf_counter() - started)
            if failure is not None:
                for request in batch:
                    request.future.set_exception(failure)
            else:
                for request, answer in zip(batch, answers, strict=True):
                    request.future.set_result(answer)

    def _next_batch(self) -> list[_Request]:
        """Waits for images; empty when the batcher is closed and everything is answered."""
        with self._changed:
            deadline = math.inf  # of the first image that is ready
            while True:
                now = time.perf_counter()
                if self._ready:
                    deadline = min(deadline, now + self._max_wait)
                    if self._is_full() or now >= deadline:
                        size = min(self._share(), len(self._ready))
                        return [self._ready.popleft() for _ in range(size)]
                elif self._closed and self._decoding == 0:
                    return []
                else:
                    deadline = math.inf
                self._changed.wait(None if deadline == math.inf else deadline - now)

    def _is_full(self) -> bool:
        """Whether waiting brings nothing: no image is on the way, or enough are ready."""
        return self._decoding == 0 or len(self._ready) >= self._share()

    def _share(self) -> int:
        """Images of one batch: a runner's part of those that wait, though others may be busy.

        Whoever took all of them would leave the next free runner none until their senders, with
        their answers, have sent again: with 16 of those, two cores were idle for 10 % of the time.
        """
        coming = len(self._ready) + self._decoding
        return min(self.max_batch, -(-coming // len(self._runners)))

    def _answers(self, batch: list[_Request]) -> list[Predictions]:
        images = [request.image for request in batch if request.image is not None]
        probabilities = self.classifier.session.run(np.stack(images))
        return [
            self.classifier.rank(row, request.top_k)
            for request, row in zip(batch, probabilities, strict=True)
        ]

    def _finish(self, batch: list[_Request], seconds: float) -> None:
        each = seconds / len(batch) / len(self._runners)
        with self._changed:
            self._accepted -= len(batch)
            known = self._seconds_an_image
            self._seconds_an_image = known + _SMOOTHING * (each - known) if known else each
        for observe in self.observers:
            observe(len(batch), seconds)


def _stand_back(niceness: int) -> None:
    """Lowers the priority of the calling thread; elsewhere it would be the whole process's."""
    if niceness and sys.platform == "linux":
        thread = threading.get_native_id()
        now = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, now + niceness)


def _start(name: str, work: Callable[[], None], count: int) -> list[threading.Thread]:
    threads = [
        threading.Thread(target=work, name=f"{name}-{index}", daemon=True) for index in range(count)
    ]
    for thread in threads:
        thread.start()
    return threads
