"""The tab for one picture: its answer, why, and what another model says."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gradio as gr

from demo.look.markup import notice
from demo.look.panels import (
    FORGET_S,
    QUIET,
    Session,
    choice_box,
    no_picture,
    or_notice,
    panel,
)
from demo.service.models import LIMITS, Models
from demo.service.picture import Picture, Upload, open_picture
from demo.tabs import classify, compare_pane, why_pane
from demo.tabs.examples import CLICK_SCRIPT, examples_html, find_examples
from runtime.base.errors import UserError

ANSWER = "answer"
EXAMPLES = "examples"
BOX = "picture-input"
RUNS_ON = "runs-on"


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
            examples = panel(gallery, script=CLICK_SCRIPT, elem_id=EXAMPLES)
            runs_on = choice_box(models.menu, label="Runs on", elem_id=RUNS_ON)
        with gr.Column(elem_id="ask-answer"), gr.Tabs(elem_id="panes"):
            with gr.Tab("Answer") as answer_tab:
                answer = panel(classify.EMPTY, elem_id="answer")
            why = why_pane.build(models, session, runs_on)
            compared = compare_pane.build(models, session)
    answer_tab.select(lambda: ANSWER, None, session.pane, **QUIET)
    turn = gr.State(Turn())
    clicked = gr.on(
        [box.input, examples.click, runs_on.input],
        clicks.answer,
        [box, runs_on, session.picture, session.given, turn],
        [box, session.picture, session.given, answer],
        preprocess=False,
        **QUIET,
    )
    why.after(clicked)
    compared.after(clicked)


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
        elem_id=BOX,
    )


@dataclass
class Turn:
    """Which click of one browser tab counts: they are answered side by side, in any order.

    Attributes:
        last: the number of the last click.
        opening: how many clicks have a new picture in hand.
        key: the model that was chosen last.
    """

    last: int = 0
    opening: int = 0
    key: str = ""

    def take(self) -> int:
        """A number for a click; what has a lower one no longer counts."""
        self.last += 1
        return self.last

    @contextmanager
    def while_opening(self) -> Iterator[None]:
        self.opening += 1
        try:
            yield
        finally:
            self.opening -= 1


class _Clicks:
    """What happens when a picture comes, or another model is chosen for it."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.examples = find_examples(models)

    def answer(
        self,
        payload: dict[str, Any] | None,
        key: str,
        picture: Picture | None,
        given: bool,
        turn: Turn,
        event: gr.EventData,
    ) -> tuple[Any, Any, Any, Any]:  # box, picture, given, answer
        """Answers a new picture, or the last one again by another model."""
        turn.key = key
        target = event.target.elem_id if event.target else None
        if target == RUNS_ON:
            return gr.skip(), *self._again(picture, given, turn)
        if target == EXAMPLES:
            example = self.examples[int(event.index)]
            upload = Upload(example.path, example.path.name)
            return gr.skip(), *self._new(upload, turn, label=example.label)
        if payload is None:
            return (gr.skip(),) * 4
        # None: the box is free again for the next picture.
        return None, *self._new(Upload.from_payload(payload), turn, label=None)

    def _again(self, picture: Picture | None, given: bool, turn: Turn) -> tuple[Any, Any, Any]:
        if turn.opening:  # that click answers by the model that is chosen now
            return (gr.skip(),) * 3
        mine, key = turn.take(), turn.key
        answer = self._answer(picture, key) if picture else no_picture(given, classify.EMPTY)
        return gr.skip(), gr.skip(), answer if mine == turn.last else gr.skip()

    def _new(self, upload: Upload, turn: Turn, *, label: str | None) -> tuple[Any, Any, Any]:
        mine = turn.take()
        with turn.while_opening():
            found = self._open(upload, turn, label=label)
        return found if mine == turn.last else (gr.skip(),) * 3

    def _open(
        self, upload: Upload, turn: Turn, *, label: str | None
    ) -> tuple[Picture | None, bool, str]:  # picture, given, answer
        try:
            content, specs = upload.read(LIMITS), self.models.input_specs
            picture = open_picture(content, specs, name=upload.name, limits=LIMITS, label=label)
        except UserError as error:
            return None, False, notice("This picture cannot be read", str(error))
        key = None
        while key != turn.key:
            key = turn.key
            answer = self._answer(picture, key)
        return picture, True, answer

    def _answer(self, picture: Picture, key: str) -> str:
        def html() -> str:
            model = self.models.open(key)
            return classify.answer_html(model, picture, classify.ask(model, picture))

        return or_notice(html)
