"""Work in several processes, with only a few pieces of it on the way at a time.

`decode` has a pool of its own, which takes arrays. Its text is in the name of every entry of the
cache, so that it stays as it is.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

from runtime.base.errors import UserError

_AHEAD = 4  # pieces of work for each process: one is done, the others wait
_Result = TypeVar("_Result")


class KilledWorkerError(UserError):
    """The system ended one of the processes."""


def open_pool(workers: int) -> ProcessPoolExecutor:
    """Processes that end with this one, also if it is killed.

    They are spawned, not forked: a fork cannot use the parent's threads or its CUDA context.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_parent)


def in_processes(
    works: Iterable[Callable[[], _Result]], *, workers: int, purpose: str
) -> Iterator[_Result]:
    """Calls each of `works` in one of the processes; results come as they are finished.

    Raises:
        KilledWorkerError: if the system ended one of the processes. `purpose` says what they do,
            for example "decodes images".
    """
    coming = iter(works)
    pool = open_pool(workers)
    try:
        pending: set[Future[_Result]] = set()
        while True:
            for work in islice(coming, _AHEAD * workers - len(pending)):
                pending.add(pool.submit(work))
            if not pending:
                return
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise killed_worker(purpose, workers) from error
    finally:
        pool.shutdown(cancel_futures=True)


def killed_worker(purpose: str, workers: int) -> KilledWorkerError:
    """The error to raise where one of `workers` processes has ended."""
    return KilledWorkerError(
        f"a process that {purpose} was killed, perhaps for want of memory ({workers} "
        "ran); close other programs and start again"
    )


def _follow_parent() -> None:
    """Makes a worker ignore Ctrl-C, which the parent handles, and end if the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
