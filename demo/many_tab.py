"""The tab for many pictures at once."""

from typing import Any

import gradio as gr

from demo import many
from demo.markup import notice
from demo.models import Models
from demo.panels import HEAVY, choice_box, or_notice, panel
from demo.picture import Upload


def build(models: Models) -> None:
    """Lays out the tab and answers its uploads."""
    progress_bar = gr.Progress()
    with gr.Row(elem_id="many"):
        with gr.Column(scale=4, min_width=280):
            box = gr.File(
                label="Your pictures",
                file_count="multiple",
                file_types=["image"],
                height=200,
                elem_id="pictures-input",
            )
            runs_on = choice_box(models.menu, label="Runs on")
        with gr.Column(scale=7, min_width=320):
            grid = panel(many.EMPTY, elem_id="grid")

    def on_upload(
        payload: list[dict[str, Any]] | None, key: str, progress: gr.Progress = progress_bar
    ) -> tuple[Any, Any]:
        if not payload:
            return gr.skip(), gr.skip()
        if len(payload) > many.MAX_PICTURES:
            message = f"{len(payload)} arrived; send at most {many.MAX_PICTURES} at once."
            return notice("Too many pictures", message), None
        uploads = [Upload.from_payload(file) for file in payload]

        def report(done: int, total: int) -> None:
            progress((done, total), desc="Classifying", unit="pictures")

        def answer() -> str:
            model = models.open(key)
            return many.batch_html(many.classify_many(model, uploads, progress=report))

        return or_notice(answer), None  # None: the box is ready for the next pictures

    box.upload(on_upload, [box, runs_on], [grid, box], preprocess=False, **HEAVY)
