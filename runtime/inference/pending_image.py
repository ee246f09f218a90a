"""An image that a batcher has accepted and not yet answered."""

from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import ImageError
from runtime.images.image_metadata import Warn
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
        unwanted: whether somebody has wanted to cancel it.
    """

    network_seconds: float = 0.0
    probabilities: "NDArray[np.float32] | None" = None
    unwanted: bool = False

    def cancel(self) -> bool:
        """Cancels it if it has not begun, and notes that nobody waits for it in any case."""
        self.unwanted = True
        return super().cancel()


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

    def begin(self) -> bool:
        """Whether its answer is wanted still. From now on its future cannot be cancelled."""
        if not self.future.running():
            return self.future.set_running_or_notify_cancel()
        if self.future.unwanted:  # nobody waited any longer when it was put aside
            self.future.set_exception(CancelledError())
        return not self.future.unwanted

    def prepare(self, classifier: Classifier) -> None:
        """Decodes the source to `image`.

        Raises:
            ImageError: it cannot be decoded.
            NoRoom: it is large, and so are pictures that are being decoded.
        """
        self.image = prepare_bounded(
            classifier, self.source, name=self.name, warn=self.warnings.append, wait=False
        )


def prepare_bounded(
    classifier: Classifier,
    source: ImageSource,
    *,
    name: str | None,
    warn: Warn | None = None,
    wait: bool = True,
) -> NDArray[np.uint8]:
    """`Classifier.prepare` for those who decode for others: it bounds what is decoded at one time.

    Raises:
        ImageError: it cannot be decoded.
        NoRoom: `wait` is false, and there is no room.
    """
    with bounded_decoding(wait=wait):
        try:
            return classifier.prepare(source, name=name, warn=warn)
        except ImageError as error:
            # The frames of its traceback would keep the decoded picture as long as the error.
            error.__cause__ = error.__context__ = None
            raise error.with_traceback(None) from None
