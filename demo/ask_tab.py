"""The tab for one picture: its answer, why, and what another model says."""

from typing import Any

import gradio as gr

from demo import classify, compare_pane, why_pane
from demo.examples import CLICK_SCRIPT, examples_html, find_examples
from demo.markup import notice
from demo.models import LIMITS, Models
from demo.panels import (
    FORGET_S,
    LATEST,
    QUIET,
    Session,
    choice_box,
    no_picture,
    or_notice,
    panel,
)
from demo.picture import Picture, Upload, open_picture
from runtime.errors import UserError

ANSWER = "answer"


def build(models: Models) -> None:
    """Lays out the tab and answers its clicks."""
    clicks = _Clicks(models)
    session = Session(
        picture=gr.State(None, time_to_live=FORGET_S),
        given=gr.Checkbox(False, visible=False),
        pane=gr.State(ANSWER),
    )
    with gr.Row(elem_id="ask"):
        with gr.Column(elem_id="ask-input"):
            box = _picture_box()
        with gr.Column(elem_id="ask-more"):
            gallery = examples_html(clicks.examples)
            examples = panel(gallery, script=CLICK_SCRIPT, elem_id="examples")
            runs_on = choice_box(models.menu, label="Runs on", elem_id="runs-on")
        with gr.Column(elem_id="ask-answer"), gr.Tabs(elem_id="panes"):
            with gr.Tab("Answer") as answer_tab:
                answer = panel(classify.EMPTY, elem_id="answer")
            why = why_pane.build(models, session, runs_on)
            compared = compare_pane.build(models, session)
    answer_tab.select(lambda: ANSWER, None, session.pane, **QUIET)
    shown = [session.picture, session.given, answer]
    for event in (
        box.input(clicks.upload, [box, runs_on], [*shown, box], preprocess=False, **QUIET),
        examples.click(clicks.example, runs_on, shown, **LATEST),
        runs_on.input(clicks.choose, [runs_on, session.picture, session.given], answer, **LATEST),
    ):
        why.after(event)
        compared.after(event)


def _picture_box() -> gr.Image:
    """It only takes files; what was sent is shown with its answer, and the box is free again."""
    return gr.Image(
        label="Your picture",
        type="filepath",
        image_mode=None,
        buttons=[],
        sources=["upload", "webcam", "clipboard"],
        placeholder="Drop a picture here\nor click to choose one",
        height=230,
        elem_id="picture-input",
    )


class _Clicks:
    """What happens when a picture comes, or another model is chosen for it."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.examples = find_examples(models)

    def upload(
        self, payload: dict[str, Any] | None, key: str
    ) -> tuple[Picture | None, Any, Any, Any]:  # picture, given, answer, box
        if payload is None:
            return gr.skip(), gr.skip(), gr.skip(), gr.skip()
        upload = Upload.from_payload(payload)
        try:
            picture = self._open(upload, label=None)
        except UserError as error:
            return None, False, notice("This picture cannot be read", str(error)), None
        return picture, True, self._answer(picture, key), None

    def example(self, key: str, event: gr.EventData) -> tuple[Picture | None, bool, str]:
        example = self.examples[int(event.index)]
        try:
            picture = self._open(Upload(example.path, example.path.name), label=example.label)
        except UserError as error:
            return None, False, notice("This example cannot be read", str(error))
        return picture, True, self._answer(picture, key)

    def choose(self, key: str, picture: Picture | None, given: bool) -> str:
        return self._answer(picture, key) if picture else no_picture(given, classify.EMPTY)

    def _open(self, upload: Upload, *, label: str | None) -> Picture:
        content = upload.read(LIMITS)
        specs = self.models.input_specs
        return open_picture(content, specs, name=upload.name, limits=LIMITS, label=label)

    def _answer(self, picture: Picture, key: str) -> str:
        def html() -> str:
            model = self.models.open(key)
            return classify.answer_html(model, picture, classify.ask(model, picture))

        return or_notice(html)
