"""An image that a batcher has accepted and not yet answered."""

from collections.abc import Iterable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import ImageError
from runtime.images.pixel_budget import bounded_decoding
from runtime.inference.classifier import Classifier
from runtime.inference.hand_over import own_image
from runtime.inference.predictions import Predictions
from runtime.model.preprocess import ImageSource


class FutureAnswer(Future[Predictions]):
    """The answer of an image, when it is there.

    Attributes:
        network_seconds: how long the network ran for its batch; 0 before that. The rest of the time
            until the answer is decoding and waiting.
        probabilities: of all classes, float32 (num_classes,); None before that.
        unwanted: whether nobody waits for it any longer, though it may have begun.
    """

    network_seconds: float = 0.0
    probabilities: "NDArray[np.float32] | None" = None
    unwanted: bool = False


@dataclass(eq=False)
class PendingImage:
    """An image on its way through a batcher.

    Attributes:
        source: what was handed over; empty when it is decoded.
        name: what to call it in an error; None: its path, or what it is.
        top_k: how many classes its answer lists.
        future: gets its answer.
        image: the network's input, uint8 RGB (size, size, 3); None until it is decoded.
        pixels: of the picture, if it was put aside because there was no room for them.
        warnings: of the decoder.
    """

    source: ImageSource
    name: str | None
    top_k: int
    future: FutureAnswer = field(default_factory=FutureAnswer)
    image: "NDArray[np.uint8] | None" = None
    pixels: int = 0
    warnings: list[str] = field(default_factory=list)

    def own(self, classifier: Classifier) -> bool:
        """Makes the source our own, so that later changes of the caller's object do not reach it.

        Returns:
            False if it cannot be decoded; then the future has the ImageError.
        """
        spec, limits = classifier.card.input, classifier.limits
        try:
            self.source = own_image(self.source, spec, limits=limits, name=self.name)
        except ImageError as error:
            self.future.set_exception(error)
            return False
        return True

    def still_wanted(self) -> bool:
        """Whether somebody waits for its answer, of an image that has begun and was put aside."""
        if self.future.unwanted:
            self.future.set_exception(CancelledError())
        return not self.future.unwanted


def prepared(
    images: Iterable[NDArray[np.uint8]], classifier: Classifier, top_k: int
) -> list[PendingImage]:
    """Images that need no decoding, each uint8 RGB (size, size, 3). They are copied.

    Raises:
        UserError: an array of another shape or dtype.
    """
    requests = []
    for image in images:
        classifier.require_prepared(image)
        request = PendingImage(b"", None, top_k, image=image.copy())
        request.future.set_running_or_notify_cancel()  # as for every image that is ready
        requests.append(request)
    return requests


def prepare_bounded(
    classifier: Classifier, source: ImageSource, *, name: str | None
) -> NDArray[np.uint8]:
    """`Classifier.prepare` for those who decode for others: large pictures wait for each other.

    Raises:
        ImageError: it cannot be decoded.
    """
    with bounded_decoding():
        try:
            return classifier.prepare(source, name=name)
        except ImageError as error:
            raise without_pixels(error) from None


def without_pixels(error: BaseException) -> BaseException:
    """The error without the frames of its traceback, which keep the decoded picture alive."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
