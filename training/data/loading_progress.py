"""What loading data tells the user: a bar on a terminal, plain lines elsewhere.

The bar goes to stderr and disappears. The lines go to stdout, so that stderr holds nothing but the
one line of an error.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_LINE_SECONDS = 10.0


_recorders: list[tuple[list[str], bool]] = []


@contextmanager
def recorded(*, aloud: bool = True) -> Iterator[list[str]]:
    """Yields a list of the lines that are reported while the block runs, and printed if `aloud`."""
    lines: list[str] = []
    _recorders.append((lines, aloud))
    try:
        yield lines
    finally:
        _recorders.pop()


def report(line: str) -> None:
    """Prints one line on stdout."""
    for lines, _ in _recorders:
        lines.append(line)
    if not all(aloud for _, aloud in _recorders):
        return
    # A file's name need not be text. Characters that stdout cannot write are shown by their codes.
    print(line.encode(errors="backslashreplace").decode(), flush=True)  # noqa: T201


def track(steps: Iterable[int], *, total: int, what: str, show: bool) -> Iterator[int]:
    """Passes on `steps` and, if `show`, shows how far the work is.

    Args:
        steps: how many images each step has done.
        total: how many images there are.
        what: what is being done, for example "decoding digits".
        show: whether to show anything.
    """
    if show and sys.stderr.isatty():
        yield from _bar(steps, total=total, what=what)
    elif show:
        yield from _lines(steps, total=total, what=what)
    else:
        yield from steps


def _bar(steps: Iterable[int], *, total: int, what: str) -> Iterator[int]:
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit=" images", file=sys.stderr) as bar:
        for step in steps:
            bar.update(step)
            yield step


def _lines(steps: Iterable[int], *, total: int, what: str) -> Iterator[int]:
    start = last = time.monotonic()
    done = 0
    for step in steps:
        done += step
        now = time.monotonic()
        if now - last >= _LINE_SECONDS or done == total:
            rate = done / max(now - start, 1e-9)
            report(f"{what}: {done:,} of {total:,} images, {rate:,.0f} images/s")
            last = now
        yield step
