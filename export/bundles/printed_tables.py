"""What the commands print for people: lines, and the tables of a bundle's files and engines."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from runtime.model.card import EngineRecord, ModelFile


def say(text: str) -> None:
    """Prints one or more lines to stdout, at once."""
    print(text, flush=True)  # noqa: T201


def model_table(files: Iterable[tuple[ModelFile, int, float | None]]) -> str:
    """The table of ONNX files.

    Each has its record, which was verified, its size in bytes, and the milliseconds that a batch
    of one takes here; None means that the time would say nothing.
    """
    head = ("file", "size", "top-1", "change", "agreement", "largest diff.", "ms, batch 1 here")
    return _table(head, [_model_row(*file) for file in files])


def engine_table(bundle: Path, records: Iterable[EngineRecord]) -> str:
    """The table of engines in the folder `bundle`; a file that is not there is called missing."""
    head = ("engine", "size", "batch", "TensorRT", "GPU", "built in", "top-1", "agreement")
    return _table(head, [_engine_row(bundle, record) for record in records])


def _model_row(record: ModelFile, size: int, milliseconds: float | None) -> tuple[str, ...]:
    parity = record.parity
    if parity is None:
        raise AssertionError(f"{record.path} was not verified")
    return (
        record.path,
        _megabytes(size),
        f"{parity.top1:.2%}",
        f"{100 * (parity.top1 - parity.reference_top1):+.2f}",
        f"{parity.agreement:.2%}",
        f"{parity.max_difference:.1e}",
        "- (for TensorRT)" if milliseconds is None else f"{milliseconds:.2f}",
    )


def _engine_row(bundle: Path, record: EngineRecord) -> tuple[str, ...]:
    path, profile, parity = bundle / record.path, record.profile, record.parity
    return (
        record.path,
        _megabytes(path.stat().st_size) if path.exists() else "missing",
        f"{profile.min}-{profile.max}, best {profile.opt}",
        f"{record.flavor.removeprefix('tensorrt').strip('-') or 'full'} {record.tensorrt_version}",
        f"{record.gpu_name or 'any'} ({', '.join(record.compute_capability)})",
        "?" if record.build_seconds is None else f"{record.build_seconds:.1f} s",
        "not run" if parity is None else f"{parity.top1:.2%}",
        "not run" if parity is None else f"{parity.agreement:.2%}",
    )


def _megabytes(count: int) -> str:
    """Bytes as decimal megabytes: "9.1 MB"."""
    return f"{count / 1e6:.1f} MB"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """`rows` under `head`; the first column is left-aligned, the others are right-aligned."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        _line(cells, widths) for cells in (head, ["-" * width for width in widths], *rows)
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    aligned = [
        cell.ljust(width) if index == 0 else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(aligned).rstrip()
