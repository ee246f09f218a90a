"""The page: what is where, and which function answers which click."""

from typing import Any

import gradio as gr

from demo import classify
from demo.examples import CLICK_SCRIPT, Example, examples_html, find_examples
from demo.head import head_html
from demo.markup import notice
from demo.models import LIMITS, Models
from demo.picture import Picture, Upload, open_picture
from runtime.errors import UserError

DELETE_CACHE_S = (10, 60)  # every 10 s, uploads older than a minute
FORGET_S = 600  # a picture's small view, after the last click


def build_page(models: Models) -> gr.Blocks:
    """Lays the page out over `models`, which all its users share."""
    examples = find_examples(models)
    page = gr.Blocks(
        title=f"SKD Edge: {models.first.card.arch}",
        analytics_enabled=False,
        delete_cache=DELETE_CACHE_S,
    )
    with page:
        gr.HTML(head_html(models.first.card), elem_classes="skd", apply_default_css=False)
        with gr.Tabs(elem_id="sections"), gr.Tab("Classify"):
            _classify_tab(models, examples)
    page.queue(api_open=False, default_concurrency_limit=8, max_size=64)
    return page


def _classify_tab(models: Models, examples: list[Example]) -> None:
    picture = gr.State(None, time_to_live=FORGET_S)
    with gr.Row(elem_id="classify"):
        with gr.Column(scale=4, min_width=280, elem_id="input-column"):
            box = gr.Image(
                label="Your picture",
                type="filepath",
                image_mode=None,
                buttons=[],
                sources=["upload", "webcam", "clipboard"],
                height=230,
                elem_id="picture-input",
            )
            runs_on = gr.Dropdown(
                [(choice.words, choice.key) for choice in models.choices],
                value=models.choices[0].key,
                label="Runs on",
                elem_id="runs-on",
                interactive=len(models.choices) > 1,
            )
            gallery = gr.HTML(
                examples_html(examples),
                elem_classes="skd",
                apply_default_css=False,
                js_on_load=CLICK_SCRIPT,
            )
        with gr.Column(scale=7, min_width=320, elem_id="answer-column"):
            answer = gr.HTML(
                classify.EMPTY, elem_classes="skd", elem_id="answer", apply_default_css=False
            )

    def on_upload(payload: dict[str, Any] | None, key: str) -> tuple[Any, Any, Any]:
        if payload is None:
            return gr.skip(), gr.skip(), gr.skip()
        upload = Upload.from_payload(payload)
        try:
            opened = open_picture(
                upload.read(LIMITS), models.input_specs, name=upload.name, limits=LIMITS
            )
        except UserError as error:
            return None, notice("This picture cannot be read", str(error)), None
        return opened, _answer(models, key, opened), None

    def on_example(key: str, event: gr.EventData) -> tuple[Any, Any]:
        example = examples[int(event.index)]
        opened = open_picture(
            example.path.read_bytes(),
            models.input_specs,
            name=example.path.name,
            limits=LIMITS,
            label=example.label,
        )
        return opened, _answer(models, key, opened)

    def on_choice(key: str, opened: Picture | None) -> str:
        return classify.EMPTY if opened is None else _answer(models, key, opened)

    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    box.input(on_upload, [box, runs_on], [picture, answer, box], preprocess=False, **quiet)
    gallery.click(on_example, runs_on, [picture, answer], **quiet)
    runs_on.input(on_choice, [runs_on, picture], answer, **quiet)


def _answer(models: Models, key: str, opened: Picture) -> str:
    try:
        model = models.open(key)
        return classify.answer_html(model, opened, classify.ask(model, opened))
    except UserError as error:
        return notice("No answer", str(error))
