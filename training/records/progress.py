"""What training says while it works: a bar on a terminal, a line an epoch elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


def counted(count: int, noun: str) -> str:
    """The number and its noun: "1 epoch", "2 epochs"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class Progress:
    """Reports to stderr and stdout; `quiet` processes of a group say nothing."""

    def __init__(self, *, epochs: int, quiet: bool = False) -> None:
        self._epochs = epochs
        self._quiet = quiet
        self._bar: tqdm[Any] | None = None

    @contextmanager
    def epoch(self, epoch: int, *, step: int, steps: int) -> Iterator[None]:
        """Shows how far an epoch of `steps` is, which begins after `step`."""
        if self._quiet or not sys.stderr.isatty():
            yield
            return
        words = f"epoch {epoch}/{self._epochs}"
        with tqdm(total=steps, initial=step, desc=words, unit="step", leave=False) as self._bar:
            yield
        self._bar = None

    def advance(self) -> None:
        """One step more."""
        if self._bar is not None:
            self._bar.update()

    def report(self, line: dict[str, Any]) -> None:
        """Prints the journal's line of an epoch."""
        self.say(
            f"epoch {line['epoch']:>{len(str(self._epochs))}}/{self._epochs}"
            f"  loss {line['loss']:7.4f}  test top-1 {line['top1']:6.2%}"
            f"  {line['images_per_second']:6.0f} images/s  {line['seconds']:5.1f} s"
        )

    def say(self, text: str) -> None:
        if not self._quiet:
            print(text, flush=True)  # noqa: T201
