"""What a backend is: one record of all that the runtime knows about one way to run model files.

`runtime.backends.registry` lists the records. `choose` asks them which files of a bundle run here.
`python -m runtime doctor` asks them what is missing and what would mend it. The page shows their
titles.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
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
    """One way to run model files. A subclass sets the attributes; it holds no open file.

    Attributes:
        name: the word that chooses it, such as "onnx-cpu". Its sessions have the same name.
        title: the name that people are shown.
        precisions: the precisions that it can run, in the order in which they are tried.
        slow_precisions: those of them that run but gain nothing. They are used when asked for; the
            page does not offer them, and the benchmark does not measure them.
        doubts: what speaks against a precision that it runs, for people.
        priority: of all backends that run on a machine, the one with the highest number is used.
        runs_on_cpu: whether it needs the same cores as the decoding of images.
        opens_onnx: whether it can open an ONNX file that lies in no bundle.
    """

    name: str
    title: str
    precisions: tuple[str, ...]
    slow_precisions: frozenset[str] = frozenset()
    doubts: Mapping[str, str] = MappingProxyType({})
    priority: int
    runs_on_cpu: ClassVar[bool] = False
    opens_onnx: ClassVar[bool] = True

    @abstractmethod
    def problem(self) -> Problem | None:
        """Why it does not run on this machine; None if it does. This may take a second."""

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
            content: the file's content. Its digest has been compared with the card's.
            source: what to call the file in errors.
            record: the file's entry in the card; None for an ONNX file that lies in no bundle.
            threads: how to use the CPU; a backend that has no such choice ignores it.

        Raises:
            BackendError: the backend does not run here.
            BundleError: the file is not one of this project's networks.
        """

    def files(self, card: Card) -> Sequence[ModelFile | EngineRecord]:
        """The files of a card that it can run, in the order of its precisions."""
        found = (card.file(precision) for precision in self.precisions)
        return [file for file in found if file is not None]

    def mismatch(
        self, bundle: Bundle, record: ModelFile | EngineRecord
    ) -> EngineMismatchError | None:
        """Why one of its files does not fit this machine; None if it fits.

        This is asked only where `problem` is None.
        """
        return None
