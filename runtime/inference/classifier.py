"""A model and its card: images in, labels out."""

from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from runtime.backends.session import Session, require_numbers
from runtime.base.errors import BundleError, ImageError, UserError
from runtime.base.parallel import in_chunks
from runtime.base.resources import Closable, usable_cores
from runtime.images.image_metadata import Warn
from runtime.inference.hand_over import NamedSource, named_images, require_many
from runtime.inference.predictions import Answer, Prediction, Predictions
from runtime.model.card import Card, Parity, Threshold
from runtime.model.preprocess import DEFAULT_LIMITS, ImageSource, Limits, preprocess

DEFAULT_TOP_K = 5
# The same for every backend. Decoding takes most of the time. With chunks as large as an engine
# takes, a few cores would decode the last chunks while the others have nothing to do.
_CHUNK = 8
_RGB_CHANNELS = 3


class Classifier(Closable):
    """An open model. Threads may share it. Close it, or use it in a `with` statement.

    Attributes:
        card: what the model says about itself.
        session: the open file.
        precision: of that file: fp32, fp16, int8 or int8-cpu; None if a lone ONNX file does not
            say it.
        source: the path of that file.
        reason: why this backend and precision are used.
        parity: how that file, or engine, compared with the trained student; None: not known.
        threshold: below which answers are not accepted; None: there is none.
        no_threshold: then, why not, in words; None if that is not known, either.
        limits: of the images that are decoded.
    """

    def __init__(
        self,
        session: Session,
        card: Card,
        *,
        source: str,
        precision: str | None = None,
        reason: str = "given",
        parity: Parity | None = None,
        threshold: Threshold | None = None,
        no_threshold: str | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """Takes over `session`, which `close` closes.

        Raises:
            BundleError: it is not the network that the card describes.
        """
        if (session.num_classes, session.input_size) != (card.num_classes, card.input.size):
            raise BundleError(
                f"{source} gives {session.num_classes} classes from {session.input_size} px, its "
                f"card lists {card.num_classes} from {card.input.size} px; export the run again"
            )
        self.session = session
        self.card = card
        self.source = source
        self.precision = precision
        self.reason = reason
        self.parity = parity
        self.threshold = threshold
        self.no_threshold = no_threshold
        self.limits = limits

    @property
    def backend(self) -> str:
        return self.session.backend

    def describe(self) -> str:
        """One line: the network, its file, the backend, and why this one is used."""
        precision = self.precision or "unknown precision"
        return f"{self.card.arch} {self.source} on {self.backend} in {precision}: {self.reason}"

    def classify(self, image: ImageSource, *, top_k: int = DEFAULT_TOP_K) -> Predictions:
        """The most probable classes of one image.

        Args:
            image: a path, the bytes of a file, a PIL image, or uint8 RGB (H, W, 3).
            top_k: how many classes to list; all if there are fewer.

        Raises:
            UserError: `top_k` is below 1.
            ImageError: the image cannot be decoded, or is over a limit; the message names it.
            BackendError: the network gives no numbers for it.
        """
        check_top_k(top_k)
        warnings: list[str] = []
        prepared = self.prepare(image, warn=warnings.append)
        return self.rank(self.session.run(prepared[None])[0], top_k, warnings)

    @overload
    def classify_batch(
        self,
        images: Sequence[ImageSource],
        *,
        top_k: int = ...,
        on_error: Literal["raise"] = ...,
    ) -> list[Predictions]: ...

    @overload
    def classify_batch(
        self, images: Sequence[ImageSource], *, top_k: int = ..., on_error: Literal["return"]
    ) -> list[Answer]: ...

    def classify_batch(
        self,
        images: Sequence[ImageSource],
        *,
        top_k: int = DEFAULT_TOP_K,
        on_error: Literal["raise", "return"] = "raise",
    ) -> list[Predictions] | list[Answer]:
        """Classifies many images on all cores. The answers are in the order of the images.

        Args:
            images: what `classify` takes.
            top_k: how many classes each answer lists.
            on_error: "return" puts the ImageError of a broken image in the place of its answer.

        Raises:
            UserError: `top_k` is below 1, `on_error` is another word, or `images` is one image.
            ImageError: an image is broken, and `on_error` is "raise". The message names the image:
                its path, or its number.
        """
        if on_error not in ("raise", "return"):
            raise UserError(f"on_error {on_error!r} is unknown; choose 'raise' or 'return'")
        # Nothing is copied of a sequence: nobody can change it before this call returns.
        lazy = not isinstance(images, Sized)
        answers = list(self._stream(images, top_k, own=lazy))
        if on_error == "return":
            return answers
        predictions: list[Predictions] = []
        for answer in answers:
            if isinstance(answer, ImageError):
                raise answer
            predictions.append(answer)
        return predictions

    def classify_stream(
        self, images: Iterable[ImageSource], *, top_k: int = DEFAULT_TOP_K
    ) -> Iterator[Answer]:
        """Yields the answers in order while later images are decoded.

        Only a few chunks of images are in memory at the same time. A broken image gives its
        ImageError. An array or PIL image is copied when it is read, so that its buffer can be
        filled again. An iterator that gives images slowly, as a camera does, is answered image by
        image.

        Raises:
            UserError: `top_k` is below 1, or `images` is one image.
        """
        return self._stream(images, top_k, own=True)

    def _stream(self, images: Iterable[ImageSource], top_k: int, *, own: bool) -> Iterator[Answer]:
        check_top_k(top_k)
        require_many(images)
        chunk, live = self.chunk, not isinstance(images, Sized)
        if isinstance(images, Sized):  # a few images, too, are shared by all cores
            chunk = min(chunk, -(-len(images) // usable_cores()) or 1)

        spec = self.card.input if own else None
        named = named_images(images, own_spec=spec, limits=self.limits)

        def classify_chunk(items: list[NamedSource]) -> list[Answer]:
            return self._classify_chunk(items, top_k)

        return in_chunks(classify_chunk, named, chunk=chunk, live=live)

    def classify_prepared(
        self, images: NDArray[np.uint8], *, top_k: int = DEFAULT_TOP_K
    ) -> list[Predictions]:
        """Classifies images that need no decoding and no resizing.

        Args:
            images: the network's inputs as `prepare` returns them, uint8 RGB (N, size, size, 3)
                with N of 1 or more.
            top_k: how many classes each answer lists.

        Raises:
            UserError: an array of another shape or dtype, or `top_k` below 1.
        """
        check_top_k(top_k)
        return [self.rank(row, top_k) for row in self.probabilities(images)]

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (N, num_classes) of prepared images, uint8 RGB (N, size, size, 3).

        N may be larger than the backend takes at once: then several batches are run.

        Raises:
            UserError: an array of another shape or dtype, or no image.
            BackendError: the network gives no numbers for an image.
        """
        most = self.session.max_batch
        if most is None or len(images) <= most:
            return require_numbers(self.session.run(images), self.source)
        batches = (images[start : start + most] for start in range(0, len(images), most))
        found = np.concatenate([self.session.run(batch) for batch in batches])
        return require_numbers(found, self.source)

    def require_prepared(self, image: NDArray[np.uint8]) -> None:
        """Checks that `image` is one input of the network, as `prepare` returns it.

        Raises:
            UserError: it is not a uint8 array (size, size, 3).
        """
        size = self.session.input_size
        expected = (size, size, _RGB_CHANNELS)
        if not isinstance(image, np.ndarray):
            received = type(image).__name__
        elif image.dtype != np.uint8 or image.shape != expected:
            received = f"{image.dtype} {image.shape}"
        else:
            return
        raise UserError(f"received {received}, expected a prepared image: uint8 {expected}")

    def prepare(
        self, image: ImageSource, *, name: str | None = None, warn: Warn | None = None
    ) -> NDArray[np.uint8]:
        """Decodes and resizes an image to the network's input: uint8 RGB (size, size, 3).

        `warn` gets a sentence for what is perhaps not meant as it was read.

        Raises:
            ImageError: it cannot be decoded, or is over a limit; the message names it.
        """
        return preprocess(image, self.card.input, limits=self.limits, name=name, warn=warn)

    def rank(
        self, probabilities: NDArray[np.float32], top_k: int, warnings: Sequence[str] = ()
    ) -> Predictions:
        """The `top_k` largest of probabilities (num_classes,); all if there are fewer.

        Raises:
            BackendError: they are no numbers.
        """
        require_numbers(probabilities, self.source)
        order = np.argsort(-probabilities, kind="stable")[:top_k].tolist()
        names = self.card.class_names
        ranked = Predictions(
            Prediction(label=names[i], index=i, probability=float(probabilities[i])) for i in order
        )
        ranked.warnings = warnings
        if (threshold := self.threshold) is not None:
            ranked.accepted = bool(probabilities.max() >= threshold.probability)
        return ranked

    def warm_up(self, *batches: int) -> None:
        """Prepares batches of these sizes (default: 1), so that the next call is fast."""
        self.session.warm_up(*(batches or (1,)))

    def close(self) -> None:
        """Closes the session."""
        self.session.close()

    @property
    def chunk(self) -> int:
        """The largest number of images that one run gets from a stream."""
        return min(_CHUNK, self.session.max_batch or _CHUNK)

    def _classify_chunk(self, items: list[NamedSource], top_k: int) -> list[Answer]:
        size = self.session.input_size
        batch = np.empty((len(items), size, size, 3), np.uint8)
        answers: list[Answer] = []
        rows = 0
        for name, image in items:
            if isinstance(image, ImageError):
                answers.append(image)
                continue
            try:
                answer = Predictions()
                answer.warnings = warnings = list[str]()
                batch[rows] = self.prepare(image, name=name, warn=warnings.append)
            except ImageError as error:
                answers.append(error)
            else:
                answers.append(answer)
                rows += 1
        probabilities = iter(self.session.run(batch[:rows]) if rows else ())
        return [
            answer
            if isinstance(answer, ImageError)
            else self.rank(next(probabilities), top_k, answer.warnings)
            for answer in answers
        ]


def check_top_k(top_k: int) -> None:
    """Raises UserError if `top_k` is below 1."""
    if top_k < 1:
        raise UserError(f"top_k {top_k} is out of range; expected 1 or more")
