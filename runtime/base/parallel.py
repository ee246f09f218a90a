"""Work on a long sequence with all cores, in order and in bounded memory.

Each worker takes a whole chunk through decode and network by itself. Nothing is handed from
thread to thread on the way, so that no core waits for another: decoding and ONNX Runtime both
release Python's lock.
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

Item = TypeVar("Item")
Result = TypeVar("Result")
_CHUNKS_A_WORKER = 2  # one in work, one waiting


def usable_cores() -> int:
    """Cores that this process may use, which in a container can be fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Source(Generic[Item]):
    """Items that are read ahead: what their iterator raises waits until its turn."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = iter(items)
        self.failure: Exception | None = None

    def take(self, count: int) -> list[Item]:
        """The next `count`; fewer at the end or before a failure, none behind it."""
        taken: list[Item] = []
        if self.failure is not None:
            return taken
        try:
            for item in itertools.islice(self._items, count):
                taken.append(item)
        except Exception as error:
            self.failure = error
        return taken


def in_chunks(
    work: Callable[[list[Item]], list[Result]],
    items: Iterable[Item],
    *,
    chunk: int,
    workers: int | None = None,
) -> Iterator[Result]:
    """Yields the results of `work` on chunks of `items`, in order.

    `items` is read as the results are taken, a few chunks ahead. An exception of `work` or of
    `items` is raised in its place, after the results before it; what comes behind is dropped.
    """
    from concurrent.futures import ThreadPoolExecutor  # 25 ms that one image need not pay

    workers = workers or usable_cores()
    source = _Source(items)
    pending: deque[Future[list[Result]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="classify")
    try:
        while True:
            while len(pending) < workers * _CHUNKS_A_WORKER:
                if not (part := source.take(chunk)):
                    break
                pending.append(pool.submit(work, part))
            if not pending:
                if source.failure is not None:
                    raise source.failure
                return
            yield from pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
