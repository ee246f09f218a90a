"""The tab Benchmark: measures every file of the model on this machine and draws the figures."""

import logging
from collections.abc import Iterator, Sequence

import gradio as gr

from demo.look import wording
from demo.look.charts import Bar, bar_chart
from demo.look.markup import html_table, notice, text
from demo.look.panels import PROGRESS, panel
from demo.service.models import Models, check_unchanged
from runtime.base.errors import BackendError, UserError
from runtime.bench.measurement import BenchResult
from runtime.bench.model_benchmark import BenchSettings, bench_model
from runtime.bench.recommendation import recommend

EMPTY = notice(
    "Not measured yet",
    "Every file of the model that runs here is measured for a few seconds: decoding, resizing, the "
    "network alone, and all together.",
    kind="hint",
)
_log = logging.getLogger(__name__)
_SETTINGS = BenchSettings(seconds=0.5, images=100)


def build(models: Models) -> None:
    """Lays out the tab and connects its button with the measurement."""
    with gr.Row(elem_id="measure-row"):
        button = gr.Button("Measure on this machine", variant="primary", elem_id="measure")
        status = panel(elem_id="measuring")
    shown = panel(EMPTY, elem_id="benchmark")

    def on_click(progress: gr.Progress = PROGRESS) -> Iterator[str]:
        yield from measured(models, progress)

    button.click(
        on_click,
        None,
        shown,
        api_visibility="private",
        show_progress_on=status,
        # One at a time: two measurements would slow each other down, and both would be wrong.
        concurrency_id="benchmark",
        concurrency_limit=1,
    )


def measured(models: Models, progress: gr.Progress) -> Iterator[str]:
    """What the panel shows after each file that was measured."""
    path = models.paths[0]
    expected = sum(1 for entry in models.entries if entry.path == path)
    results: list[BenchResult] = []
    progress((0, expected), desc="Measuring", unit="files")
    try:
        check_unchanged(models.entries[0])
        # In other processes, so that the page's own memory is not counted as the model's.
        for result in bench_model(path, _SETTINGS, left_out=_log_left_out, apart=True):
            results.append(result)
            yield benchmark_html(results)
            # After the yield, because a yield ends the progress that was shown before it.
            progress((len(results), expected), desc="Measuring", unit="files")
    except UserError as error:
        yield notice("That did not work", str(error))


def _log_left_out(error: BackendError) -> None:
    _log.warning("left out: %s", error)


def benchmark_html(results: Sequence[BenchResult]) -> str:
    """The advice, two charts and a table, for what has been measured so far."""
    advice = recommend(results, name=lambda result: f"“{_name(result)}”")
    fastest = min(results, key=lambda result: result.end_to_end.p50_ms)
    widest = max(results, key=lambda result: result.folder.images_per_second)
    single = [
        Bar(
            _name(result),
            result.end_to_end.p50_ms,
            wording.milliseconds(result.end_to_end.p50_ms),
            marked=result is fastest,
        )
        for result in results
    ]
    many = [
        Bar(
            _name(result),
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
        f"{_times_table(results)}</article>"
    )


def _name(result: BenchResult) -> str:
    return f"{wording.precision(result.precision)}, {wording.backend(result.backend)}"


def _times_table(results: Sequence[BenchResult]) -> str:
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
    rows = [[text(_name(result)), *_times_row(result, batches)] for result in results]
    return (
        f"{html_table(head, rows, caption='Measured times')}"
        '<p class="muted">Decode: a JPEG file of 640 x 480. At once: the network alone on that '
        "many pictures together. Slowest of 100: from file to labels, the time that 99 of 100 "
        "pictures stay below. Memory: of a process that answers one picture after another. Right: "
        "on the test images, from the model card.</p>"
    )


def _times_row(result: BenchResult, batches: Sequence[int]) -> list[str]:
    network = {batch.batch: wording.milliseconds(batch.p50_ms) for batch in result.network}
    return [
        wording.milliseconds(result.decode.p50_ms),
        wording.milliseconds(result.preprocess.p50_ms),
        *(network.get(batch, "") for batch in batches),
        wording.milliseconds(result.end_to_end.p99_ms),
        wording.file_size(round(result.memory_mb * 1e6)),
        "" if result.top1 is None else wording.percent(result.top1),
    ]
