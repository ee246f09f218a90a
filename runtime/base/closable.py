"""What is released by `close`, or at the end of a `with` statement."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class Closable(ABC):
    """Base of what holds threads, or memory of a device."""

    @abstractmethod
    def close(self) -> None:
        """Releases everything; a second call does nothing."""

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
