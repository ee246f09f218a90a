"""`python -m runtime bench [MODEL]`: every backend and precision that runs here, in one table."""

import sys
from collections.abc import Iterator, Sequence

from runtime.base.command import (
    CommandParser,
    interrupt_on_sigterm,
    positive_float,
    positive_int,
    print_json,
)
from runtime.base.errors import BackendError
from runtime.base.shown_text import on_terminal
from runtime.bench.measurement import BenchResult, Percentiles
from runtime.bench.model_benchmark import BenchSettings, bench_model
from runtime.bench.recommendation import recommend
from runtime.commands.model_options import add_backend, add_model, model_or_latest


def main(arguments: Sequence[str]) -> int:
    """Prints the figures of each option, and what to use; returns 0.

    Raises:
        BundleError: there is no model, or it is damaged.
        BackendError: none of the wanted options runs here.
    """
    given = _parser().parse_args(arguments)
    interrupt_on_sigterm()  # the process that measures ends too, and its pictures are removed
    settings = BenchSettings(seconds=given.seconds, images=given.images)
    model = model_or_latest(given.model, sys.stderr if given.json else sys.stdout)
    results: list[BenchResult] = []
    measured = bench_model(
        model,
        settings,
        left_out=_print_left_out,
        backend=given.backend,
        precision=given.precision,
    )
    for result in measured:
        results.append(result)
        if given.json:
            print_json(result, flush=True)
        elif sys.stderr.isatty():
            print(f"measured {result.backend} {result.precision or ''}", file=sys.stderr)
    advice = recommend(results)
    if given.json:
        print_json({"recommendation": advice})
    else:
        print("\n".join([*_table_lines(results), advice]))
    return 0


def _print_left_out(error: BackendError) -> None:
    print(on_terminal(f"left out: {error}"), file=sys.stderr)


def _table_lines(results: Sequence[BenchResult]) -> Iterator[str]:
    """A table for people, with a column for each option."""
    columns = [_column(result) for result in results]
    rows = {name: None for column in columns for name in column}
    heading = max(map(len, rows))
    widths = [max(map(len, column.values())) for column in columns]
    for name in rows:
        cells = (
            f"{column.get(name, ''):<{width}}"
            for column, width in zip(columns, widths, strict=True)
        )
        yield f"{name:<{heading}}  {'  '.join(cells)}".rstrip()


def _column(result: BenchResult) -> dict[str, str]:
    batches = {
        f"network, batch {batch.batch}": f"{_three(batch)}  {batch.images_per_second:,.0f}/s"
        for batch in result.network
    }
    return {
        "ms: p50/p90/p99": f"{result.backend} {result.precision or ''}",
        "decode 640x480 JPEG": _three(result.decode),
        "preprocess": _three(result.preprocess),
        **batches,
        "file to labels": f"{_three(result.end_to_end)}  {result.overhead:+.1%}",
        "folder": f"{result.folder.images_per_second:,.0f}/s, {result.folder.share:.0%} of bound",
        "memory, one image": f"{result.memory_mb:.0f} MB",
        "top-1": "-" if result.top1 is None else f"{result.top1:.2%}",
    }


def _three(value: Percentiles) -> str:
    return f"{value.p50_ms:.2f}/{value.p90_ms:.2f}/{value.p99_ms:.2f}"


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m runtime bench",
        description=__doc__,
        epilog="file to labels: the percentage is what it takes beyond the sum of its stages. "
        "folder: all cores on many files, with the share of what they could do if only decoding "
        "and the network took time.",
    )
    add_model(parser)
    add_backend(parser, only=True)
    parser.add_argument(
        "--seconds", type=positive_float, default=1.0, help="for each figure (default %(default)s)"
    )
    parser.add_argument(
        "--images", type=positive_int, default=200, help="files of the folder (default %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser
