"""How long a device waits for data."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch


class WaitClock(Protocol):
    """Adds up the stretches spent inside `waiting()` since `reset()`."""

    def reset(self) -> None: ...
    def waiting(self) -> AbstractContextManager[None]: ...
    def seconds(self) -> float: ...


def open_clock(device: torch.device) -> WaitClock:
    """The clock that tells the truth about work on `device`."""
    return _StreamClock() if device.type == "cuda" else _WallClock()


class _WallClock:
    def __init__(self) -> None:
        self._seconds = 0.0

    def reset(self) -> None:
        self._seconds = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - start

    def seconds(self) -> float:
        return self._seconds


class _StreamClock:
    """Times the stream, not the Python thread, which runs ahead of the device."""

    def __init__(self) -> None:
        self._stretches: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def reset(self) -> None:
        self._stretches.clear()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        idle = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        ready = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        idle.record()
        yield
        ready.record()
        self._stretches.append((idle, ready))

    def seconds(self) -> float:
        if not self._stretches:
            return 0.0
        self._stretches[-1][1].synchronize()
        milliseconds: list[float] = [i.elapsed_time(r) for i, r in self._stretches]
        return sum(milliseconds) / 1000
