"""The tab that measures the model on this machine."""

from collections.abc import Iterator

import gradio as gr

from demo.look.markup import notice
from demo.look.panels import PROGRESS, panel
from demo.service.models import Models
from demo.tabs import bench_view
from runtime.base.errors import UserError
from runtime.bench.measurement import BenchResult
from runtime.commands.bench import Settings, bench

SECONDS = 0.5  # for each figure
IMAGES = 100


def build(models: Models) -> None:
    """Lays out the tab and answers its button."""
    with gr.Row(elem_id="measure-row"):
        measure = gr.Button("Measure on this machine", variant="primary", elem_id="measure")
        status = panel(elem_id="measuring")
    shown = panel(bench_view.EMPTY, elem_id="benchmark")
    path = models.paths[0]
    expected = sum(1 for choice in models.choices if choice.path == path)

    def on_measure(progress: gr.Progress = PROGRESS) -> Iterator[str]:
        results: list[BenchResult] = []
        progress((0, expected), desc="Measuring", unit="files")
        try:
            # Apart: the page's own memory is not the model's.
            for result in bench(path, Settings(seconds=SECONDS, images=IMAGES), apart=True):
                results.append(result)
                yield bench_view.benchmark_html(results)
                # After the yield, which ends the showing of what was reported before it.
                progress((len(results), expected), desc="Measuring", unit="files")
        except UserError as error:
            yield notice("That did not work", str(error))

    measure.click(
        on_measure,
        None,
        shown,
        api_visibility="private",
        show_progress_on=status,
        # One at a time: two measurements would slow each other down, and both would be wrong.
        concurrency_id="benchmark",
        concurrency_limit=1,
    )
