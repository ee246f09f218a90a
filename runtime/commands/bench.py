"""`python -m runtime bench [MODEL]`: every backend and precision that runs here, in one table."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from runtime.backends.choice import Option, choose, options
from runtime.backends.onnx_session import Threads
from runtime.backends.session import BACKENDS
from runtime.base.command import CommandParser, positive_float, positive_int, print_json
from runtime.base.errors import BackendError
from runtime.bench.measurement import BenchResult, Percentiles, measure
from runtime.bench.recommendation import recommend
from runtime.bench.sample_images import write_sample_jpegs
from runtime.commands.model_argument import add_model, model_or_latest
from runtime.inference.classifier import Classifier
from runtime.inference.opening import open_classifier
from runtime.model.bundle import open_bundle
from runtime.model.locate import find_model


@dataclass(frozen=True)
class Settings:
    """How long and on how many files to measure."""

    seconds: float
    images: int


def main(arguments: Sequence[str]) -> int:
    """Prints a row for each option, and what to use; with --json one object a line."""
    given = _parser().parse_args(arguments)
    # As Ctrl-C: the process that measures ends with this one, and its pictures are removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = Settings(given.seconds, given.images)
    model = model_or_latest(given.model, sys.stderr if given.json else sys.stdout)
    results: list[BenchResult] = []
    for result in bench(model, settings, backend=given.backend, precision=given.precision):
        results.append(result)
        if given.json:
            print_json(result, flush=True)
        elif sys.stderr.isatty():
            print(f"measured {result.backend} {result.precision or ''}", file=sys.stderr)
    advice = recommend(results)
    if given.json:
        print_json({"recommendation": advice})
    else:
        print("\n".join([*_table(results), advice]))
    return 0


def bench(
    model: Path,
    settings: Settings,
    *,
    backend: str | None = None,
    precision: str | None = None,
    apart: bool = False,
) -> Iterator[BenchResult]:
    """Measures the options that were asked for, each in a process of its own, one by one.

    One of several that does not start is left out with a line on stderr; BackendError if all are.

    An own process, because only so its memory is its own, and because TensorRT and ONNX Runtime
    keep threads and memory that would disturb the next. One alone gets this process, unless it has
    to be `apart`, because this one does other work too.
    """
    path = find_model(model)
    wanted: list[tuple[str | None, str | None]] = [(backend, precision)]
    if path.suffix != ".onnx":
        bundle = open_bundle(path)
        found = [o for o in options(bundle) if o.is_worthwhile and _asked(o, backend, precision)]
        if not found:  # this says why, or is TensorRT's int8 graph on ONNX Runtime after all
            found = [choose(bundle, backend=backend, precision=precision).option]
        wanted = [(option.backend, option.precision) for option in found]
    one = _measure_apart if apart or len(wanted) > 1 else _measure_here
    failed = []
    for one_backend, one_precision in wanted:
        try:
            result = one(path, one_backend, one_precision, settings)
        except BackendError as error:  # what is installed need not start: CUDA without cuDNN
            failed.append(error)
            if len(failed) == len(wanted):
                raise failed[0] from None
            print(f"left out: {error}", file=sys.stderr)
        else:
            yield result


def _asked(option: Option, backend: str | None, precision: str | None) -> bool:
    return backend in (None, option.backend) and precision in (None, option.precision)


def _measure_here(
    path: Path, backend: str | None, precision: str | None, settings: Settings
) -> BenchResult:
    def opened(threads: Threads) -> Classifier:
        return open_classifier(path, backend=backend, precision=precision, threads=threads)

    with (
        tempfile.TemporaryDirectory(prefix="skd-edge-bench-") as folder,
        opened(Threads()) as latency,
    ):
        paths = write_sample_jpegs(Path(folder), count=settings.images)
        return measure(
            latency,
            lambda: opened(Threads(intra_op=1, spinning=False)),
            paths,
            seconds=settings.seconds,
        )


def _measure_apart(
    path: Path, backend: str | None, precision: str | None, settings: Settings
) -> BenchResult:
    asked = {"--backend": backend, "--precision": precision}
    arguments = [word for name, value in asked.items() if value for word in (name, value)]
    limits = ["--seconds", str(settings.seconds), "--images", str(settings.images), "--json"]
    # What it puts into the folder for temporary files is removed here, even if it is killed.
    with (
        tempfile.TemporaryDirectory(prefix="skd-edge-bench-") as folder,
        subprocess.Popen(
            [sys.executable, "-m", "runtime", "bench", str(path.resolve()), *arguments, *limits],
            env={**os.environ, "TMPDIR": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            answer, complaint = process.communicate()
        finally:
            process.kill()  # at Ctrl-C; an ended one is left alone
            process.wait()
    if process.returncode != 0:
        reason = complaint.strip().splitlines() or [f"exit code {process.returncode}"]
        named = " ".join(word for word in (backend, precision) if word) or path.name
        raise BackendError(f"{named} failed: {reason[-1]}")
    return msgspec.json.decode(answer.splitlines()[0], type=BenchResult)


def _table(results: Sequence[BenchResult]) -> Iterator[str]:
    """Lines for people: a column for each option."""
    columns = [_cells(result) for result in results]
    rows = {name: None for column in columns for name in column}
    heading = max(map(len, rows))
    widths = [max(map(len, column.values())) for column in columns]
    for name in rows:
        cells = (
            f"{column.get(name, ''):<{width}}"
            for column, width in zip(columns, widths, strict=True)
        )
        yield f"{name:<{heading}}  {'  '.join(cells)}".rstrip()


def _cells(result: BenchResult) -> dict[str, str]:
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
        epilog="file to labels: with what it costs over the sum of its stages. folder: all cores "
        "on many files, with the share of what the cores could do if decoding and the network "
        "alone took their time.",
    )
    add_model(parser)
    parser.add_argument("--backend", metavar="B", help=f"only one of {', '.join(BACKENDS)}")
    parser.add_argument("--precision", metavar="P", help="only fp32, fp16, int8 or int8-cpu")
    parser.add_argument(
        "--seconds", type=positive_float, default=1.0, help="for each figure (default %(default)s)"
    )
    parser.add_argument(
        "--images", type=positive_int, default=200, help="files of the folder (default %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser
