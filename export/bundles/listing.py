"""What the commands print for people."""

from collections.abc import Sequence


def say(text: str) -> None:
    """One or more lines on stdout, at once."""
    print(text, flush=True)  # noqa: T201


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """`rows` under `head`; the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        _line(cells, widths) for cells in (head, ["-" * width for width in widths], *rows)
    )


def megabytes(count: int) -> str:
    """Bytes as decimal megabytes: "9.1 MB"."""
    return f"{count / 1e6:.1f} MB"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    aligned = [
        cell.ljust(width) if index == 0 else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(aligned).rstrip()
