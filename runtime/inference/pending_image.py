"""An image that a batcher has accepted and not yet answered."""

from concurrent.futures import Future
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
    """

    network_seconds: float = 0.0
    probabilities: "NDArray[np.float32] | None" = None


@dataclass(eq=False)
class PendingImage:
    """An image on its way through a batcher.

    Attributes:
        source: what was handed over; empty when it is decoded.
        name: what to call it in an error; None: its path, or what it is.
        top_k: how many classes its answer lists.
        future: gets its answer.
        image: the network's input, uint8 RGB (size, size, 3); None until it is decoded.
        warnings: of the decoder.
    """

    source: ImageSource
    name: str | None
    top_k: int
    future: FutureAnswer = field(default_factory=FutureAnswer)
    image: "NDArray[np.uint8] | None" = None
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

    def prepare(self, classifier: Classifier) -> None:
        """Decodes the source to `image`. A large picture waits until there is room for it.

        Raises:
            ImageError: it cannot be decoded.
        """
        with bounded_decoding():
            try:
                self.image = classifier.prepare(
                    self.source, name=self.name, warn=self.warnings.append
                )
            except ImageError as error:
                # The frames of its traceback would keep the decoded picture until the answer.
                error.__cause__ = error.__context__ = None
                raise error.with_traceback(None) from None
