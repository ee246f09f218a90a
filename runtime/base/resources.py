"""What a process may use: its cores, and objects that hold threads or memory until closed."""

import os
from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


def usable_cores() -> int:
    """The number of cores that this process may use. Containers may allow fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Closable(ABC):
    """Base of objects that hold threads or memory of a device; a `with` statement closes them."""

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
