"""The tab Classify: one picture with its panes Answer, Why and Compare."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gradio as gr

from demo.look.markup import notice
from demo.look.panels import (
    FORGET_S,
    QUIET,
    TabState,
    Turn,
    model_menu,
    no_picture,
    or_notice,
    panel,
)
from demo.service.models import LIMITS, Models
from demo.service.picture import Picture, Upload, open_picture
from demo.tabs import answer, compare, why
from demo.tabs.examples import CLICK_SCRIPT, examples_html, find_examples
from runtime.base.errors import UserError

ANSWER = "answer"
EXAMPLES = "examples"
BOX = "picture-input"
RUNS_ON = "runs-on"


def build(models: Models) -> None:
    """Lays out the tab and connects its pictures with their answers."""
    clicks = _PictureClicks(models)
    state = TabState(
        picture=gr.State(None, time_to_live=FORGET_S),
        had_picture=gr.Checkbox(False, visible=False),
        pane=gr.State(ANSWER),
    )
    with gr.Row(elem_id="ask"):
        with gr.Column(elem_id="ask-input"):
            box = _picture_box()
        with gr.Column(elem_id="ask-more"):
            gallery = examples_html(clicks.examples)
            examples = panel(gallery, script=CLICK_SCRIPT, elem_id=EXAMPLES)
            runs_on = model_menu(models.menu, label="Runs on", elem_id=RUNS_ON)
        with gr.Column(elem_id="ask-answer"), gr.Tabs(elem_id="panes"):
            with gr.Tab("Answer") as answer_tab:
                answered = panel(answer.EMPTY, elem_id="answer")
            explained = why.build(models, state, runs_on)
            compared = compare.build(models, state)
    answer_tab.select(lambda: ANSWER, None, state.pane, **QUIET)
    turn = gr.State(PictureTurn())
    clicked = gr.on(
        [box.input, examples.click, runs_on.input],
        clicks.answer,
        [box, runs_on, state.picture, state.had_picture, turn],
        [box, state.picture, state.had_picture, answered],
        preprocess=False,
        **QUIET,
    )
    explained.after(clicked)
    compared.after(clicked)


def _picture_box() -> gr.Image:
    """The box that takes a file. The picture is shown with its answer, and the box is emptied."""
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
class PictureTurn(Turn):
    """Which click of one browser tab counts.

    Attributes:
        opening: how many clicks have a new picture in hand.
        key: the model that was chosen last.
    """

    opening: int = 0
    key: str = ""

    @contextmanager
    def while_opening(self) -> Iterator[None]:
        """Counts the click as one with a new picture in hand."""
        self.opening += 1
        try:
            yield
        finally:
            self.opening -= 1


class _PictureClicks:
    """What happens when a picture comes, or another model is chosen for it."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.examples = find_examples(models)

    def answer(
        self,
        payload: dict[str, Any] | None,
        key: str,
        picture: Picture | None,
        had_picture: bool,
        turn: PictureTurn,
        event: gr.EventData,
    ) -> tuple[Any, Any, Any, Any]:
        """Answers a new picture, or the last one again with another model.

        Returns:
            The new values of the box, the picture, `had_picture` and the pane.
        """
        turn.key = key
        target = event.target.elem_id if event.target else None
        if target == RUNS_ON:
            return gr.skip(), *self._again(picture, had_picture, turn)
        if target == EXAMPLES:
            example = self.examples[int(event.index)]
            upload = Upload(example.path, example.path.name)
            return gr.skip(), *self._new(upload, turn, label=example.label)
        if payload is None:
            return (gr.skip(),) * 4
        # None empties the box, which makes it ready for the next picture.
        return None, *self._new(Upload.from_payload(payload), turn, label=None)

    def _again(
        self, picture: Picture | None, had_picture: bool, turn: PictureTurn
    ) -> tuple[Any, Any, Any]:
        if turn.opening:  # the click with the new picture answers with the model chosen now
            return (gr.skip(),) * 3
        key = turn.key

        def html() -> str:
            return self._answer(picture, key) if picture else no_picture(had_picture, answer.EMPTY)

        return gr.skip(), gr.skip(), turn.unless_overtaken(html, gr.skip())

    def _new(self, upload: Upload, turn: PictureTurn, *, label: str | None) -> tuple[Any, Any, Any]:
        def opened() -> tuple[Any, Any, Any]:
            with turn.while_opening():
                return self._open(upload, turn, label=label)

        return turn.unless_overtaken(opened, (gr.skip(),) * 3)

    def _open(
        self, upload: Upload, turn: PictureTurn, *, label: str | None
    ) -> tuple[Picture | None, bool, str]:
        try:
            content, specs = upload.read(LIMITS), self.models.input_specs
            picture = open_picture(content, specs, name=upload.name, limits=LIMITS, label=label)
        except UserError as error:
            return None, False, notice("This picture cannot be read", str(error))
        key = None
        while key != turn.key:  # the user may choose another model meanwhile
            key = turn.key
            html = self._answer(picture, key)
        return picture, True, html

    def _answer(self, picture: Picture, key: str) -> str:
        def html() -> str:
            model = self.models.open(key)
            return answer.answer_html(model, picture, answer.ask(model, picture))

        return or_notice(html)
