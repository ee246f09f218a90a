"""The base of objects that must be closed: by `close`, or by the end of a `with` statement."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class Closable(ABC):
    """Base of objects that hold threads or memory of a device."""

    @abstractmethod
    def close(self) -> None:
        """Releases everything. A second call does nothing."""

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
