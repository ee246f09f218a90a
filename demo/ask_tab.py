"""The tab for one picture: its answer, why, and what another model says."""

from typing import Any

import gradio as gr

from demo import classify, compare_pane, why_pane
from demo.examples import CLICK_SCRIPT, examples_html, find_examples
from demo.markup import notice
from demo.models import LIMITS, Models
from demo.panels import QUIET, Session, choice_box, or_notice, panel
from demo.picture import Picture, Upload, open_picture
from runtime.errors import UserError

FORGET_S = 600  # a picture's small views, after the last click
ANSWER = "answer"


def build(models: Models) -> None:
    """Lays out the tab and answers its clicks."""
    session = Session(picture=gr.State(None, time_to_live=FORGET_S), pane=gr.State(ANSWER))
    with gr.Row(elem_id="ask"):
        with gr.Column(elem_id="ask-input"):
            box = gr.Image(
                label="Your picture",
                type="filepath",
                image_mode=None,
                buttons=[],
                sources=["upload", "webcam", "clipboard"],
                placeholder="Drop a picture here\nor click to choose one",
                height=230,
                elem_id="picture-input",
            )
        with gr.Column(elem_id="ask-more"):
            examples = panel(
                examples_html(find_examples(models)), script=CLICK_SCRIPT, elem_id="examples"
            )
            runs_on = choice_box(models.menu, label="Runs on", elem_id="runs-on")
        with gr.Column(elem_id="ask-answer"), gr.Tabs(elem_id="panes"):
            with gr.Tab("Answer") as answer_tab:
                answer = panel(classify.EMPTY, elem_id="answer")
            refreshes = [
                why_pane.build(models, session, runs_on),
                compare_pane.build(models, session),
            ]
    answer_tab.select(lambda: ANSWER, None, session.pane, **QUIET)
    for event in _answer_pictures(models, session, box, runs_on, examples, answer):
        for refresh in refreshes:
            refresh.after(event)


def _answer_pictures(
    models: Models,
    session: Session,
    box: gr.Image,
    runs_on: gr.Dropdown,
    examples: gr.HTML,
    answer: gr.HTML,
) -> list[Any]:
    """A new picture, from the box or the examples, or another model for the same one."""
    known = find_examples(models)

    def ask(opened: Picture, key: str) -> str:
        def html() -> str:
            model = models.open(key)
            return classify.answer_html(model, opened, classify.ask(model, opened))

        return or_notice(html)

    def on_upload(payload: dict[str, Any] | None, key: str) -> tuple[Any, Any, Any]:
        if payload is None:
            return gr.skip(), gr.skip(), gr.skip()
        upload = Upload.from_payload(payload)
        try:
            content = upload.read(LIMITS)
            opened = open_picture(content, models.input_specs, name=upload.name, limits=LIMITS)
        except UserError as error:
            return None, notice("This picture cannot be read", str(error)), None
        return opened, ask(opened, key), None  # None: the box is ready for the next picture

    def on_example(key: str, event: gr.EventData) -> tuple[Any, Any]:
        example = known[int(event.index)]
        opened = open_picture(
            example.path.read_bytes(),
            models.input_specs,
            name=example.path.name,
            limits=LIMITS,
            label=example.label,
        )
        return opened, ask(opened, key)

    def on_choice(key: str, opened: Picture | None) -> str:
        return ask(opened, key) if opened else classify.EMPTY

    shown = [session.picture, answer]
    return [
        box.input(on_upload, [box, runs_on], [*shown, box], preprocess=False, **QUIET),
        examples.click(on_example, runs_on, shown, **QUIET),
        runs_on.input(on_choice, [runs_on, session.picture], answer, **QUIET),
    ]
