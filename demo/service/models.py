"""The models that the page offers: opened when first asked for, then shared by all users."""

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from demo.look import wording
from demo.service.picture import Picture
from runtime.backends.choice import choose, options
from runtime.base.errors import UserError
from runtime.inference.batcher import Batcher
from runtime.inference.open_classifier import open_classifier
from runtime.model.bundle import open_bundle, read_card
from runtime.model.card import Card, InputSpec
from runtime.model.locate import BUNDLE, find_model
from runtime.model.preprocess import Limits

LIMITS = Limits(max_bytes=16 << 20)  # of the page; the models also answer programs, by the API


@dataclass(frozen=True)
class MenuEntry:
    """One entry of the page's list "Runs on": a file of a bundle on a backend that runs here.

    Attributes:
        key: what the browser sends when the entry is chosen.
        title: what the list shows.
        path: the bundle, or the lone ONNX file.
        card: of that model.
        backend: what runs the file.
        precision: of the file; None: a lone ONNX file that names none.
        reason: why the runtime chose this entry by itself; None for all other entries.
    """

    key: str
    title: str
    path: Path
    card: Card
    backend: str
    precision: str | None
    reason: str | None = None


def check_unchanged(entry: MenuEntry, card: Card | None = None) -> None:
    """Checks that a bundle still holds the model with which the page was started.

    A training that moves the link `runs/latest`, or an export, may have put another one there. What
    is added to a bundle, such as a precision or an engine, does not change it.

    Args:
        entry: of the bundle; a lone ONNX file is not checked.
        card: the bundle's, if it was just read.

    Raises:
        UserError: the bundle holds another model.
        BundleError: it is gone or damaged.
    """
    if entry.path.suffix == ".onnx":
        return
    if _identity(card or read_card(entry.path)) != _identity(entry.card):
        raise UserError(
            "the model was replaced on the server since this page was started; "
            "start the page again to use the new one"
        )


def _identity(card: Card) -> tuple[object, ...]:
    return card.provenance.checkpoint_sha256, card.class_names, card.input


class Model:
    """An open entry. Safe to share between threads.

    Attributes:
        entry: what was opened.
        classifier: for single calls and for batches of arrays (N, size, size, 3).
        batcher: collects the pictures of all users into batches.
    """

    def __init__(self, entry: MenuEntry) -> None:
        """Opens the entry and runs it once, so that the first picture is answered fast.

        Raises:
            UserError: the entry cannot run, or its bundle holds another model now.
        """
        self.entry = entry
        # Without it, every click on a model that fails here would keep some of the GPU's memory.
        with ExitStack() as failed:
            self.classifier = failed.enter_context(
                open_classifier(entry.path, backend=entry.backend, precision=entry.precision)
            )
            check_unchanged(entry, self.classifier.card)
            self.classifier.reason = entry.reason or self.classifier.reason
            self.classifier.warm_up()
            self.batcher = Batcher(self.classifier)
            failed.callback(self.batcher.close)
            # The batcher's threads, too, take longer for their first picture.
            black = np.zeros((1, *2 * (self.classifier.session.input_size,), 3), np.uint8)
            for _ in range(2):
                self.batcher.submit_prepared(black)[0].result()
            failed.pop_all()

    @property
    def card(self) -> Card:
        """The card of the model."""
        return self.classifier.card

    def view_of(self, picture: Picture) -> NDArray[np.uint8]:
        """The network's input, uint8 RGB (size, size, 3), that was made of `picture`."""
        return picture.views[self.card.input]

    def close(self) -> None:
        """Answers what was accepted, then releases the model."""
        self.batcher.close()
        self.classifier.close()


class Models:
    """All entries of one or two bundles (or lone ONNX files).

    Attributes:
        paths: the bundles or files.
        entries: what of them runs here, the best of the first model first.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """Finds what can run, and opens the best entry of each model.

        Raises:
            BundleError: a path is no model, or the model is damaged.
            BackendError: nothing of a model runs here.
        """
        self.paths = tuple(find_model(path) for path in paths)
        self.entries = tuple(
            entry
            for number, (path, name) in enumerate(zip(self.paths, _names(self.paths), strict=True))
            for entry in _entries(path, prefix=f"{number}:", name=name)
        )
        # Each entry has its own lock: while one is opened, the users of the others do not wait.
        self._locks = {entry.key: threading.Lock() for entry in self.entries}
        self._open: dict[str, Model] = {}
        for path in self.paths:
            self.open(next(entry.key for entry in self.entries if entry.path == path))

    @property
    def first(self) -> Model:
        """The best entry of the first model."""
        return self.open(self.entries[0].key)

    @property
    def menu(self) -> list[tuple[str, str]]:
        """The title and the key of every entry."""
        return [(entry.title, entry.key) for entry in self.entries]

    @property
    def rival(self) -> str:
        """The key of what the first entry is compared with: the second bundle, or file."""
        others = [entry for entry in self.entries[1:] if entry.path != self.paths[0]]
        return (others or self.entries[1:] or self.entries)[0].key

    @property
    def input_specs(self) -> tuple[InputSpec, ...]:
        """The different inputs of the models, usually one."""
        return tuple(dict.fromkeys(entry.card.input for entry in self.entries))

    def open(self, key: str) -> Model:
        """The model of that entry.

        Raises:
            UserError: there is no such entry, or it cannot run.
        """
        entry = next((entry for entry in self.entries if entry.key == key), None)
        if entry is None:
            raise UserError("this choice is not offered here; load the page again")
        with self._locks[key]:
            if key not in self._open:
                self._open[key] = Model(entry)
            return self._open[key]

    def close(self) -> None:
        """Closes every open model."""
        with ExitStack() as nobody_opens:
            for lock in self._locks.values():
                nobody_opens.enter_context(lock)
            for model in self._open.values():
                model.close()
            self._open.clear()


def _names(paths: Sequence[Path]) -> list[str]:
    """What stands before the entries of each model, so that no two have the same title."""
    if len(paths) == 1:
        return [""]

    def own(path: Path) -> str:
        return path.parent.name if path.name == BUNDLE else path.name

    # The name of a link such as `latest` says more than the folder to which it leads, unless both
    # models are called so.
    for places in (paths, [path.resolve() for path in paths]):
        if len({own(path) for path in places}) == len(paths):
            return [f"{own(path)}: " for path in places]
    return [f"{number}. {own(path)}: " for number, path in enumerate(paths, 1)]


def _entries(path: Path, *, prefix: str, name: str) -> list[MenuEntry]:
    """What of `path` runs here, the best first.

    Raises:
        BackendError: nothing runs; the message has the reasons.
    """
    if path.suffix == ".onnx":
        with open_classifier(path) as classifier:
            card = classifier.card
            found: list[tuple[str, str | None]] = [(classifier.backend, classifier.precision)]
            reason = classifier.reason
    else:
        bundle = open_bundle(path)
        card = bundle.card
        best = choose(bundle)
        others = [o for o in options(bundle) if o.is_worthwhile and o != best.option]
        found = [(option.backend, option.precision) for option in (best.option, *others)]
        reason = best.reason
    return [
        MenuEntry(
            key=f"{prefix}{backend}:{precision}",
            title=f"{name}{wording.precision(precision)}, {wording.backend(backend)}",
            path=path,
            card=card,
            backend=backend,
            precision=precision,
            reason=reason if (backend, precision) == found[0] else None,
        )
        for backend, precision in found
    ]
