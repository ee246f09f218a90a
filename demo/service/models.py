"""The models that the page offers: opened when first asked for, then shared by all users."""

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from demo.look import words
from runtime.backends.choice import choose, options
from runtime.base.errors import UserError
from runtime.inference.batcher import Batcher
from runtime.inference.classifier import Classifier
from runtime.inference.opening import open_classifier
from runtime.model.bundle import open_bundle
from runtime.model.card import Card, InputSpec
from runtime.model.locate import BUNDLE, find_model
from runtime.model.preprocess import Limits

LIMITS = Limits(max_bytes=16 << 20)


@dataclass(frozen=True)
class Choice:
    """One entry of the page's "Runs on": a file of a bundle on a backend that runs here."""

    key: str
    words: str
    path: Path
    card: Card
    backend: str | None
    precision: str | None
    reason: str | None = None  # why the runtime chose it by itself; None: a user did


class Model:
    """An open choice. Safe to share between threads.

    Attributes:
        choice: what it is.
        classifier: for single calls and for batches of arrays (N, size, size, 3).
        batcher: takes prepared images, uint8 (size, size, 3), of all users at once.
    """

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        with ExitStack() as failed:  # else each click on it would keep some of the GPU's memory
            self.classifier = failed.enter_context(
                open_classifier(
                    choice.path, backend=choice.backend, precision=choice.precision, limits=LIMITS
                )
            )
            self.classifier.reason = choice.reason or self.classifier.reason
            self.classifier.warm_up()
            self.batcher = Batcher(_for_prepared_images(self.classifier))
            failed.pop_all()

    @property
    def card(self) -> Card:
        return self.classifier.card

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (N, classes) of prepared images, in batches that the model takes."""
        most = self.classifier.session.max_batch or len(images)
        batches = (images[start : start + most] for start in range(0, len(images), most))
        return np.concatenate([self.classifier.session.run(batch) for batch in batches])

    def close(self) -> None:
        self.batcher.close()
        self.classifier.close()


class Models:
    """All choices of one or two bundles (or lone ONNX files)."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Finds what can run; opens the first choice, so that a broken model is refused now."""
        self.paths = tuple(find_model(path) for path in paths)
        self.choices = tuple(
            choice
            for number, (path, name) in enumerate(zip(self.paths, _names(self.paths), strict=True))
            for choice in _choices(path, prefix=f"{number}:", name=name)
        )
        # One a choice: while one model is opened, the users of the others do not wait.
        self._locks = {choice.key: threading.Lock() for choice in self.choices}
        self._open: dict[str, Model] = {}
        for path in self.paths:
            self.open(next(choice.key for choice in self.choices if choice.path == path))

    @property
    def first(self) -> Model:
        return self.open(self.choices[0].key)

    @property
    def menu(self) -> list[tuple[str, str]]:
        """Words and key of every choice."""
        return [(choice.words, choice.key) for choice in self.choices]

    @property
    def rival(self) -> str:
        """The key of what the first choice is compared with: the second bundle, or file."""
        others = [choice for choice in self.choices[1:] if choice.path != self.paths[0]]
        return (others or self.choices[1:] or self.choices)[0].key

    @property
    def input_specs(self) -> tuple[InputSpec, ...]:
        """The different inputs of the models, usually one."""
        return tuple(dict.fromkeys(choice.card.input for choice in self.choices))

    def open(self, key: str) -> Model:
        """The model of that choice; UserError when there is no such choice or it cannot run."""
        choice = next((choice for choice in self.choices if choice.key == key), None)
        if choice is None:
            raise UserError("this choice is not offered here; load the page again")
        with self._locks[key]:
            if key not in self._open:
                self._open[key] = Model(choice)
            return self._open[key]

    def close(self) -> None:
        with ExitStack() as nobody_opens:
            for lock in self._locks.values():
                nobody_opens.enter_context(lock)
            for model in self._open.values():
                model.close()
            self._open.clear()


def _names(paths: Sequence[Path]) -> list[str]:
    """What stands before the choices of each model, such that no two are the same."""
    if len(paths) == 1:
        return [""]

    def own(path: Path) -> str:
        return path.parent.name if path.name == BUNDLE else path.name

    # A link such as `latest` says more than what it leads to, unless both are called so.
    for places in (paths, [path.resolve() for path in paths]):
        if len({own(path) for path in places}) == len(paths):
            return [f"{own(path)}: " for path in places]
    return [f"{number}. {own(path)}: " for number, path in enumerate(paths, 1)]


def _choices(path: Path, *, prefix: str, name: str) -> list[Choice]:
    """What of `path` runs here, the best first; BackendError when nothing does."""
    if path.suffix == ".onnx":
        with open_classifier(path, limits=LIMITS) as classifier:
            card = classifier.card
            found: list[tuple[str, str | None]] = [(classifier.backend, classifier.precision)]
            reason = classifier.reason
    else:
        bundle = open_bundle(path)
        card = bundle.card
        best = choose(bundle)  # BackendError, with the reasons, when nothing runs
        others = [o for o in options(bundle) if o.is_worthwhile and o != best.option]
        found = [(option.backend, option.precision) for option in (best.option, *others)]
        reason = best.reason
    return [
        Choice(
            key=f"{prefix}{backend}:{precision}",
            words=f"{name}{words.precision(precision)}, {words.backend(backend)}",
            path=path,
            card=card,
            backend=backend,
            precision=precision,
            reason=reason if (backend, precision) == found[0] else None,
        )
        for backend, precision in found
    ]


def _for_prepared_images(classifier: Classifier) -> Classifier:
    """The same open session for images that have been cut and resized already.

    The page prepares images itself, to show and to time the steps; cutting them again would lose
    their border.
    """
    size = classifier.card.input.size
    whole = msgspec.structs.replace(classifier.card.input, resize=size, crop=size)
    return Classifier(
        classifier.session,
        msgspec.structs.replace(classifier.card, input=whole),
        source=classifier.source,
        precision=classifier.precision,
    )
