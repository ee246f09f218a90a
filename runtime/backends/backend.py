"""What a backend is: one record of all that the runtime knows of one way to run a model file.

`runtime.backends.registry` lists the records. `choose` asks them which files of a bundle run here,
`python -m runtime doctor` what is missing and what would mend it, the page what to call them.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from runtime.backends.session import Session, Threads
from runtime.base.errors import EngineMismatchError
from runtime.model.bundle import Bundle
from runtime.model.card import Card, EngineRecord, ModelFile


@dataclass(frozen=True)
class Problem:
    """Why a backend does not run on this machine, and what would mend that."""

    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason}; to mend it: {self.remedy}"


class Backend(ABC):
    """One way to run model files. A subclass sets the attributes; its instances hold no state.

    Attributes:
        name: the word that chooses it, such as "onnx-cpu"; its sessions have the same one.
        title: what people are shown.
        precisions: of the files that it can run, in the order in which they are tried.
        slow_precisions: those of them that run and are slower than the others. They are used when
            asked for, and neither offered nor measured by themselves.
        priority: of all backends that run, the one with the highest number is used.
        runs_on_cpu: whether its work competes with the decoding of images for the same cores.
        opens_onnx: whether it opens an ONNX file by itself, without the bundle.
    """

    name: str
    title: str
    precisions: tuple[str, ...]
    slow_precisions: frozenset[str] = frozenset()
    priority: int
    runs_on_cpu: ClassVar[bool] = False
    opens_onnx: ClassVar[bool] = True

    @abstractmethod
    def problem(self) -> Problem | None:
        """Why it does not run on this machine; None if it does. May take a moment."""

    @abstractmethod
    def open(
        self,
        content: bytes,
        *,
        source: str,
        record: ModelFile | EngineRecord | None,
        threads: Threads | None = None,
    ) -> Session:
        """Opens a file.

        Args:
            content: the file's content, which equals the card's digest.
            source: what to call the file in errors.
            record: the file's entry in the card; None for an ONNX file without a bundle.
            threads: how to use the CPU, where the backend can be told.

        Raises:
            BackendError: the backend does not run here.
            BundleError: the file is not one of this project's networks.
        """

    def files(self, card: Card) -> Sequence[ModelFile | EngineRecord]:
        """The listed files that it can run, in the order of its precisions."""
        found = (card.file(precision) for precision in self.precisions)
        return [file for file in found if file is not None]

    def mismatch(
        self, bundle: Bundle, record: ModelFile | EngineRecord
    ) -> EngineMismatchError | None:
        """Why a file that `files` lists does not fit this machine; None if it fits.

        Asked only where the backend has no problem.
        """
        return None
