"""The tab for many pictures at once."""

from typing import Any

import gradio as gr

from demo.look.markup import notice
from demo.look.panels import HEAVY, PROGRESS, choice_box, or_notice, panel
from demo.service.models import Models
from demo.service.picture import Upload
from demo.tabs import many


def build(models: Models) -> None:
    """Lays out the tab and answers its uploads."""
    with gr.Row(elem_id="many"):
        with gr.Column():
            box = gr.File(
                label="Your pictures",
                file_count="multiple",
                file_types=["image"],
                height=200,
                elem_id="pictures-input",
            )
            runs_on = choice_box(models.menu, label="Runs on")
        with gr.Column():
            grid = panel(many.EMPTY, elem_id="grid")

    def on_upload(
        payload: list[dict[str, Any]] | None, key: str, progress: gr.Progress = PROGRESS
    ) -> tuple[Any, Any]:  # grid, box: None makes it ready for the next pictures
        if not payload:
            return gr.skip(), gr.skip()
        uploads = [Upload.from_payload(file) for file in payload]
        return or_notice(lambda: _answer(models, key, uploads, progress)), None

    box.upload(
        on_upload,
        [box, runs_on],
        [grid, box],
        preprocess=False,
        show_progress_on=grid,
        **HEAVY,
    )


def _answer(models: Models, key: str, uploads: list[Upload], progress: gr.Progress) -> str:
    def report(done: int, total: int) -> None:
        progress((done, total), desc="Classifying", unit="pictures")

    if len(uploads) > many.MAX_PICTURES:
        message = f"{len(uploads)} arrived; send at most {many.MAX_PICTURES} at once."
        return notice("Too many pictures", message)
    return many.batch_html(many.classify_many(models.open(key), uploads, progress=report))
