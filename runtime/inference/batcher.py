"""Collects images of many threads into batches: more images a second, with a bounded wait.

accepted ──► decoding (a pool) ──► ready ──► a batch in the network ──► answered
└───────────── at most `max_queue` images; beyond that OverloadedError ───────┘
"""

import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import BackendError, OverloadedError, UserError
from runtime.base.resources import usable_cores
from runtime.images.pixel_budget import NoRoom, bound_thread, give_back_room, own
from runtime.inference.batch_threads import BatchThreads
from runtime.inference.classifier import DEFAULT_TOP_K, Classifier, check_top_k
from runtime.inference.hand_over import require_many
from runtime.inference.pending_image import FutureAnswer, PendingImage, prepared, without_pixels
from runtime.inference.predictions import Predictions
from runtime.model.preprocess import ImageSource

_MAX_WAIT_MS = 3_600_000  # an hour
_SMOOTHING = 0.1  # weight of the newest batch in the running mean of seconds an image


class Batcher(BatchThreads):
    """Answers images from many threads with one classifier, which it does not close.

    An array or a PIL image is copied when it is submitted, so that the caller may use it again.

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
            classifier: the open model; the caller closes it, after the batcher.
            max_batch: the largest number of images of one run of the network.
            max_wait_ms: how long a decoded image waits for others, if some are being decoded.
            max_queue: the largest number of images that are accepted and not yet answered.
            decoders: how many threads decode; default: one for each core.
            runners: how many threads run the network at the same time. On a CPU, more than one
                gains if the session has fewer threads than there are cores.
            niceness: by how many steps threads stand back behind those that submit (Linux only).

        Raises:
            UserError: a number is out of range.
        """
        # NaN fails this comparison, too. A longer wait would end the threads with an OverflowError.
        decoders = usable_cores() if decoders is None else decoders
        if min(max_batch, max_queue, decoders, runners) < 1 or not 0 <= max_wait_ms <= _MAX_WAIT_MS:
            raise UserError(
                f"max_batch {max_batch}, max_queue {max_queue}, decoders {decoders} and runners "
                f"{runners} must be 1 or more, max_wait_ms {max_wait_ms} from 0 to {_MAX_WAIT_MS}"
            )
        self.classifier = classifier
        # More images than are accepted never wait, so that no batch is larger.
        self.max_batch = min(max_batch, max_queue, classifier.session.max_batch or max_batch)
        self.max_queue, self._max_wait = max_queue, max_wait_ms / 1e3
        self.observers: list[Callable[[int, float], None]] = []
        self._ready: deque[PendingImage] = deque()
        self._decoding, self._seconds_an_image = 0, 0.0
        super().__init__(decoders=decoders, runners=runners, niceness=niceness)

    @property
    def waiting(self) -> int:
        """The number of images that are accepted and not yet answered."""
        return len(self._unanswered)

    @property
    def drain_seconds(self) -> float:
        """Seconds that the accepted images will take, as an estimate."""
        return self.waiting * self._seconds_an_image

    @property
    def running(self) -> bool:
        """Whether images are accepted and can be answered, in this process."""
        return not (
            self._closed or self._failed or self.device_lost or os.getpid() != self._process
        )

    def require_room(self, count: int) -> None:
        """Checks that `count` more images would be accepted now.

        Raises:
            OverloadedError: there is no room for all of them.
            BackendError: the batcher accepts none any more; the message says why.
        """
        if not self.running:
            raise self.refusal()
        if self.waiting + count > self.max_queue:
            raise OverloadedError(
                f"{self.waiting} images are waiting and {count} more came, the limit is "
                f"{self.max_queue}; try again in {self.drain_seconds:.1f} s"
            )

    def submit(
        self, image: ImageSource, *, top_k: int = DEFAULT_TOP_K, name: str | None = None
    ) -> FutureAnswer:
        """Accepts one image, as `submit_all` accepts many."""
        return self.submit_all([image], top_k=top_k, names=[name])[0]

    def submit_all(
        self,
        images: Sequence[ImageSource],
        *,
        top_k: int = DEFAULT_TOP_K,
        names: Sequence[str | None] | None = None,
    ) -> list[FutureAnswer]:
        """Accepts all of the images or none.

        Args:
            images: paths, the bytes of files, PIL images, or uint8 RGB (H, W, 3).
            top_k: how many classes each answer lists.
            names: what to call each image in an error.

        Returns:
            Futures of the answers. One raises ImageError if its image cannot be decoded.

        Raises:
            UserError: `top_k` is below 1, or `images` is a single image.
            OverloadedError: there is no room for all of them.
            BackendError: as `require_room`.
        """
        check_top_k(top_k)
        if not isinstance(images, list):
            require_many(images)
        self.require_room(len(images))  # before anything is copied or locked
        names = names if names is not None else [None] * len(images)
        named = zip(images, names, strict=True)
        requests = [PendingImage(image, name, top_k) for image, name in named]
        whole = [r for r in requests if isinstance(r.source, bytes) or r.own(self.classifier)]
        with self._changed:
            self.require_room(len(whole))
            self._unanswered.update(whole)
            self._decoding += len(whole)
            for request in whole:
                self._inbox.put(request)
        return [request.future for request in requests]

    def submit_prepared(
        self, images: Iterable[NDArray[np.uint8]], *, top_k: int = DEFAULT_TOP_K
    ) -> list[FutureAnswer]:
        """Accepts images that need no decoding and no resizing: all of them or none.

        Args:
            images: the network's inputs as `Classifier.prepare` returns them, each uint8 RGB
                (size, size, 3), or all in one array (N, size, size, 3). They are copied.
            top_k: how many classes each answer lists.

        Raises:
            UserError: an array of another shape or dtype, or `top_k` below 1.
            OverloadedError: there is no room for all of them.
            BackendError: as `require_room`.
        """
        check_top_k(top_k)
        self.require_room(0)
        requests = prepared(images, self.classifier, top_k)
        with self._changed:
            self.require_room(len(requests))
            self._unanswered.update(requests)
            self._ready.extend(requests)
            self._changed.notify_all()
        return [request.future for request in requests]

    def _decode_all(self) -> None:
        """The loop of a decoder. One that puts a picture aside looks for room afterwards."""
        bound_thread()
        while request := self._next_beside_large() if self._aside else self._inbox.get():
            self._prepare(request)

    def _prepare(self, request: PendingImage) -> None:
        """Decodes one image and hands it to the runners, or puts it aside."""
        begun, future = request.pixels > 0, request.future
        wanted = request.still_wanted() if begun else future.set_running_or_notify_cancel()
        failure: BaseException | None = None
        if wanted:
            try:
                source, name, warn = request.source, request.name, request.warnings.append
                request.image = self.classifier.prepare(source, name=name, warn=warn)
            except NoRoom as full:
                self._put_aside(request, full.pixels)
                return
            except BaseException as error:  # the future passes it on
                failure = without_pixels(error)
            finally:
                if own.held:
                    give_back_room()
        request.source = b""  # frees the file's content while the image waits
        with self._changed:
            self._decoding -= 1
            if request not in self._unanswered:
                return  # abandoned
            if wanted and failure is None:
                self._ready.append(request)
            else:
                self._unanswered.remove(request)
            # A runner must wake for the first image, to start the wait, and for the one that fills
            # the batch. It need not wake for those between.
            if len(self._ready) == 1 or self._is_full():
                self._changed.notify_all()
        if failure is not None:
            request.future.set_exception(failure)

    def _run_all(self) -> None:
        """The loop of a runner."""
        while batch := self._next_batch():
            started = time.perf_counter()
            try:
                answers = self._answers(batch)
            except BaseException as error:  # the loop goes on: the next batch must be answered
                self._note_lost_device(error)  # before those who asked are told
                answers = [error] * len(batch)
            # This comes before the answers, because a client that has its answer may send the next
            # image at once. Its answered image must then no longer count as waiting.
            seconds = time.perf_counter() - started
            if not self._finish(batch, seconds):
                return  # abandoned
            for request, answer in zip(batch, answers, strict=True):
                if isinstance(answer, BaseException):
                    request.future.set_exception(answer)
                else:
                    request.future.network_seconds = seconds
                    request.future.set_result(answer)

    def _next_batch(self) -> list[PendingImage]:
        """Waits for images. Empty if the batcher is closed and all are answered, or abandoned."""
        with self._changed:
            deadline = math.inf  # until when the first image that is ready may wait
            while not self._failed:
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
            return []

    def _is_full(self) -> bool:
        """Whether a batch need not wait: no image is being decoded, or enough are ready."""
        return self._decoding == 0 or len(self._ready) >= self._share()

    def _share(self) -> int:
        """How many images a runner takes: its part of those that wait, even if others are busy.

        If it took all of them, the next free runner would have nothing to do until clients have
        their answers and send again. With 16 clients, two cores were idle for 10 % of the time.
        """
        coming = len(self._ready) + self._decoding
        return min(self.max_batch, -(-coming // len(self.runners)))

    def _answers(self, batch: list[PendingImage]) -> list[Predictions | BaseException]:
        images = [request.image for request in batch if request.image is not None]
        probabilities = self.classifier.session.run(np.stack(images))
        answers: list[Predictions | BaseException] = []
        for request, row in zip(batch, probabilities, strict=True):
            request.future.probabilities = row
            try:
                answers.append(self.classifier.rank(row, request.top_k, request.warnings))
            except BackendError as error:  # of this image alone
                answers.append(error)
        return answers

    def _finish(self, batch: list[PendingImage], seconds: float) -> bool:
        """Counts a batch as answered; False if its images were abandoned."""
        each = seconds / len(batch) / len(self.runners)
        with self._changed:
            if self._failed:
                return False
            self._unanswered.difference_update(batch)
            known = self._seconds_an_image
            self._seconds_an_image = known + _SMOOTHING * (each - known) if known else each
        for observe in self.observers:
            try:
                observe(len(batch), seconds)
            except Exception:  # the images must be answered
                logging.getLogger(__name__).exception("an observer of the batches has failed")
        return True
