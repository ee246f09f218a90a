"""What loading tells the user, on stderr: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator

_LINE_SECONDS = 10.0


def report(line: str) -> None:
    """One line on stderr."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def track(steps: Iterable[int], *, total: int, what: str, show: bool) -> Iterator[int]:
    """Passes on `steps`, each the number of images that were done, and shows how far it is."""
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
