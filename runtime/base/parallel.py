"""Work on a long sequence with all cores.

A sequence is worked on in order and in bounded memory. Each worker decodes a whole chunk and runs
the network on it by itself. No thread waits for another one, because nothing is handed over between
them. Decoding and ONNX Runtime both release Python's lock, so that threads are enough.
"""

import itertools
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from runtime.base.resources import usable_cores

if TYPE_CHECKING:
    from concurrent.futures import Future

Item = TypeVar("Item")
Result = TypeVar("Result")
_CHUNKS_A_WORKER = 2  # one in work, one waiting
_SHORTEST = 1e-9  # seconds


class _Source(Generic[Item]):
    """Items that are read ahead. An exception of their iterator is kept until its turn comes."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = iter(items)
        self.failure: Exception | None = None

        self.waited = 0.0  # seconds, for the newest item

    def take(self, count: int, *, patience: float) -> list[Item]:
        """The next `count` items; fewer at the end or before a failure, none after it.

        An item that was waited for longer than `patience` seconds is the last one.
        """
        taken: list[Item] = []
        if self.failure is not None:
            return taken
        asked = time.perf_counter()
        try:
            for item in itertools.islice(self._items, count):
                taken.append(item)
                now = time.perf_counter()
                self.waited, asked = now - asked, now
                if self.waited > patience:
                    break
        except Exception as error:
            self.failure = error
        return taken


def in_chunks(
    work: Callable[[list[Item]], list[Result]],
    items: Iterable[Item],
    *,
    chunk: int,
    workers: int | None = None,
    live: bool = False,
) -> Iterator[Result]:
    """Yields the results of `work` on chunks of `items`, in order.

    The iterator `items` is read a few chunks further than results were taken; less far if it is
    `live` and its items come more slowly than they are worked on. An exception of
    `work` or of `items` is raised after the results before it; all later items are dropped.

    Args:
        work: gives one result for each item of a chunk.
        items: any number of items; they are read by the calling thread.
        chunk: how many items make a chunk.
        workers: the number of threads; default: one for each usable core.
        live: whether items may come one by one, as from a camera. If an item is waited for at least
            twice as long as the work on it takes, its result is given before the next one is read.
    """
    from concurrent.futures import ThreadPoolExecutor  # takes 25 ms, which one image does not need

    workers = workers or usable_cores()
    source = _Source(items)
    most = workers * _CHUNKS_A_WORKER - 1  # chunks before the one that is read
    ahead = 0 if live else most
    seconds = 0.0 if live else math.inf  # of the work on an item, by one worker

    def timed(part: list[Item]) -> list[Result]:
        nonlocal seconds
        started = time.perf_counter()
        results = work(part)
        if live:
            seconds = (time.perf_counter() - started) / len(part)
        return results

    pending: deque[Future[list[Result]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="classify")
    try:
        while True:
            while len(pending) <= ahead:
                if not (part := source.take(chunk, patience=seconds / workers)):
                    break
                pending.append(pool.submit(timed, part))
                if live:
                    ahead = min(most, int(2 * seconds / max(source.waited, _SHORTEST)))
            if not pending:
                if source.failure is not None:
                    raise source.failure
                return
            yield from pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def start_threads(
    name: str,
    work: Callable[[], None],
    count: int,
    *,
    niceness: int = 0,
    failed: Callable[[], None] = lambda: None,
) -> list[threading.Thread]:
    """Starts `count` threads that each call `work` once.

    Args:
        name: the threads are called so, with a number.
        work: usually a loop that ends when its owner is closed.
        count: the number of threads.
        niceness: by how many steps their priority is lower than that of the calling thread. Only
            Linux has a priority for each thread; elsewhere this does nothing.
        failed: is called by a thread that `work` ends with an exception.
    """

    def run() -> None:
        if niceness and sys.platform == "linux":
            thread = threading.get_native_id()
            now = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, now + niceness)
        try:
            work()
        except BaseException:
            failed()
            raise

    threads = [
        threading.Thread(target=run, name=f"{name}-{index}", daemon=True) for index in range(count)
    ]
    for thread in threads:
        thread.start()
    return threads
