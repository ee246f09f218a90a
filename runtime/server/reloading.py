"""Loads a served model again when its bundle was replaced on disk, without a dropped request.

The new model is opened and warmed up while the old one answers. Then it takes the old one's place
at once; the old one answers what it has accepted, and is closed. If the new one cannot be opened,
because it is damaged or only half copied, the old one stays, and the log and the metrics say so.
"""

import ctypes
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeAlias

from runtime.base.errors import UserError, first_line
from runtime.base.resources import Closable
from runtime.inference.batcher import Batcher
from runtime.model.card import CARD_FILE, ENGINE_FOLDER
from runtime.model.locate import find_model
from runtime.server.served_models import ServedModel

_WATCH_SECONDS = 1.0
_ATTEMPTS = 3  # if the files change while they are read
_FILES = (CARD_FILE, "*.onnx", f"{ENGINE_FOLDER}/*")
State: TypeAlias = tuple[tuple[str, int, int, int, int], ...]


@dataclass
class Source:
    """Where a served model comes from.

    Attributes:
        served: the model.
        path: as it was named; None: runs/latest, which may point to another run later.
        state: of the files that were last loaded, or that could not be loaded.
        seen: of the files at the last look.
    """

    served: ServedModel
    path: Path | None
    state: State
    seen: State


def source_of(served: ServedModel, path: Path | None, state: State) -> Source:
    """The source of a model that was just opened; `state` is that of its files before."""
    return Source(served, path, state, state)


def state_of(path: Path | None) -> State:
    """Name, time, size and place of each file of a model; empty if there is none to be seen.

    The time is that of the last change of any kind (ctime), which copying tools cannot set back.
    """
    try:
        found = find_model(path)
    except (UserError, OSError):  # OSError: a folder that may not be looked into
        return ()
    files = [found] if found.is_file() else [f for part in _FILES for f in found.glob(part)]
    states = []
    for file in sorted(files):
        with suppress(OSError):  # it was removed just now
            status = file.stat()
            number = status.st_ino
            states.append(
                (str(file), status.st_mtime_ns, status.st_ctime_ns, status.st_size, number)
            )
    return tuple(states)


class Reloader(Closable):
    """A thread that loads models again: when it is asked to, and when their files change."""

    def __init__(
        self,
        sources: Sequence[Source],
        open_batcher: Callable[[Path | None], Batcher],
        *,
        watch: bool,
        note: Callable[[str], None],
        after: Callable[[], None] = lambda: None,
    ) -> None:
        """Starts the thread.

        Args:
            sources: the models, which the caller closes.
            open_batcher: opens and warms up the model at a path.
            watch: whether to look at the files once a second.
            note: is told in a line what was loaded, and what could not be; its own errors, such as
                a log that is gone, end nothing.
            after: is called when a former model was closed.
        """
        self._sources = sources
        self._open = open_batcher
        self._watch = watch
        self._note = note
        self._after = after
        # A signal handler may interrupt itself in `put`. In `Event.set` it would wait for itself.
        self._wishes: SimpleQueue[None] = SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)
        self._thread.start()

    def request(self) -> None:
        """Asks to load all models again; returns at once. A signal handler may call it."""
        self._wishes.put(None)

    def close(self) -> None:
        """Ends the thread, after the model that it is just loading."""
        self._closed = True
        self._wishes.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            asked = self._is_asked()
            if self._closed:
                return
            for source in self._sources:
                try:
                    if asked or self._has_settled(source):
                        self._reload(source)
                except Exception as error:  # whatever it is, the next wish must find this thread
                    self._count_failure(source, "its reload did not end well", error)

    def _is_asked(self) -> bool:
        """Waits until somebody asks (True), or until it is time to look at the files (False)."""
        try:
            self._wishes.get(timeout=_WATCH_SECONDS if self._watch else None)
        except Empty:
            return False
        with suppress(Empty):
            while True:  # many at once are one
                self._wishes.get_nowait()
        return True

    def _has_settled(self, source: Source) -> bool:
        """Whether the files changed, and did not change any more since the last look."""
        now = state_of(source.path)
        settled = now == source.seen and now != source.state
        source.seen = now
        return settled

    def _reload(self, source: Source) -> None:
        served = source.served
        current = [each.served.current.batcher for each in self._sources]
        if (lost := next((each for each in current if each.device_lost), None)) is not None:
            source.state = state_of(source.path)  # the next look need not say the same again
            served.failed_reloads += 1
            self._tell(f"{served.name}: the new model is not loaded: {lost.refusal()}")
            return
        try:
            batcher = self._opened(source)
        except Exception as error:  # whatever is wrong with the new one, the old one answers
            self._count_failure(source, "the new model cannot be loaded", error)
            return
        with ExitStack() as closing:
            closing.callback(_close, batcher)
            former = served.replace(batcher)
            closing.pop_all()
            closing.callback(_close, former.batcher)  # answers what it has accepted
            self._tell(
                f"{served.name}: version {served.current.version} answers: "
                f"{batcher.classifier.describe()}"
            )
        del former
        self._after()
        _return_free_memory()

    def _opened(self, source: Source) -> Batcher:
        """The open model; `source` gets the state of its files before they were read last.

        If they cannot be read, and change meanwhile, that is not the state in which they are now.
        So the next look sees that they have changed.

        Raises:
            UserError: it cannot be opened, or its files change again and again.
        """
        path = source.path
        for _ in range(_ATTEMPTS):
            source.state = before = state_of(path)
            try:
                batcher = self._open(path)
            except Exception:
                if state_of(path) == before:
                    raise
                continue  # it was replaced while it was read
            if state_of(path) == before:
                return batcher
            _close(batcher)
        raise UserError(f"the files of {path or 'runs/latest'} change while they are read")

    def _count_failure(self, source: Source, what: str, error: Exception) -> None:
        served = source.served
        served.failed_reloads += 1
        self._tell(
            f"{served.name}: {what}, version {served.current.version} goes on answering: "
            f"{first_line(error)}"
        )

    def _tell(self, line: str) -> None:
        # The pipe of stderr may be broken. The metrics say the same.
        with suppress(Exception):
            self._note(line)


def _close(batcher: Batcher) -> None:
    try:
        batcher.close()
    finally:
        batcher.classifier.close()


def _return_free_memory() -> None:
    """Gives memory that is free back to the system, where the C library can (glibc, malloc_trim).

    By itself it keeps what a closed model leaves. After some reloads that was the memory of three
    models.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
