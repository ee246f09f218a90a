"""Measured speed as people see it."""

from collections.abc import Sequence

from demo.look import words
from demo.look.charts import Bar, bar_chart
from demo.look.markup import notice, table, text
from runtime.bench.measurement import BenchResult
from runtime.bench.recommendation import recommend

EMPTY = notice(
    "Not measured yet",
    "Every file of the model that runs here is measured for a few seconds: decoding, resizing, the "
    "network alone, and all together.",
    kind="hint",
)


def benchmark_html(results: Sequence[BenchResult]) -> str:
    """The advice, two charts and a table, for what has been measured so far."""
    advice = recommend(results, name=lambda result: f"“{name(result)}”")
    quickest = min(results, key=lambda result: result.end_to_end.p50_ms)
    widest = max(results, key=lambda result: result.folder.images_per_second)
    single = [
        Bar(
            name(result),
            result.end_to_end.p50_ms,
            words.milliseconds(result.end_to_end.p50_ms),
            marked=result is quickest,
        )
        for result in results
    ]
    many = [
        Bar(
            name(result),
            result.folder.images_per_second,
            f"{result.folder.images_per_second:,.0f} a second",
            marked=result is widest,
        )
        for result in results
    ]
    return (
        f'<article class="benchmark" data-testid="benchmark" '
        f'data-measured="{len(results)}">'
        f'<p class="advice">{text(advice[0].upper() + advice[1:])} '
        f"(times and rates of the network alone).</p>"
        f'<div class="charts">{bar_chart(single, title="One picture, from file to labels")}'
        f"{bar_chart(many, title='A folder of pictures, all cores')}</div>"
        f"{_table(results)}</article>"
    )


def name(result: BenchResult) -> str:
    return f"{words.precision(result.precision)}, {words.backend(result.backend)}"


def _table(results: Sequence[BenchResult]) -> str:
    batches = sorted({batch.batch for result in results for batch in result.network})
    head = [
        "Median times",
        "Decode",
        "Resize",
        *("Network" if batch == 1 else f"{batch} at once" for batch in batches),
        "Slowest of 100",
        "Memory",
        "Right",
    ]
    rows = [[text(name(result)), *_cells(result, batches)] for result in results]
    return (
        f"{table(head, rows, caption='Measured times')}"
        '<p class="muted">Decode: a JPEG file of 640 x 480. At once: the network alone on so many '
        "pictures together. Slowest of 100: from file to labels, what 99 of 100 pictures stay "
        "below. Memory: of a process that answers one picture after another. Right: on the test "
        "images, from the model card.</p>"
    )


def _cells(result: BenchResult, batches: Sequence[int]) -> list[str]:
    network = {batch.batch: words.milliseconds(batch.p50_ms) for batch in result.network}
    return [
        words.milliseconds(result.decode.p50_ms),
        words.milliseconds(result.preprocess.p50_ms),
        *(network.get(batch, "") for batch in batches),
        words.milliseconds(result.end_to_end.p99_ms),
        words.file_size(round(result.memory_mb * 1e6)),
        "" if result.top1 is None else words.percent(result.top1),
    ]
