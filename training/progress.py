"""What training says while it works: a bar on a terminal, a line an epoch elsewhere."""

import sys
from typing import Any

from tqdm import tqdm


class Progress:
    """Reports to stderr and stdout; `quiet` processes of a group say nothing."""

    def __init__(self, *, epochs: int, quiet: bool = False) -> None:
        self._epochs = epochs
        self._quiet = quiet
        self._bar: tqdm[Any] | None = None

    def start_epoch(self, epoch: int, *, step: int, steps: int) -> None:
        if self._quiet or not sys.stderr.isatty():
            return
        self._bar = tqdm(
            total=steps,
            initial=step,
            desc=f"epoch {epoch}/{self._epochs}",
            unit="step",
            leave=False,
        )

    def advance(self) -> None:
        if self._bar is not None:
            self._bar.update()

    def end_epoch(self, line: dict[str, Any] | None) -> None:
        """Closes the bar and prints the journal's line, if the epoch got that far."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if line is not None:
            self.say(
                f"epoch {line['epoch']:>{len(str(self._epochs))}}/{self._epochs}"
                f"  loss {line['loss']:7.4f}  test top-1 {line['top1']:6.2%}"
                f"  {line['images_per_second']:6.0f} images/s  {line['seconds']:5.1f} s"
            )

    def say(self, text: str) -> None:
        if not self._quiet:
            print(text, flush=True)  # noqa: T201
