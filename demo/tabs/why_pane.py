"""The pane that shows what an answer hangs on."""

from typing import Any

import gradio as gr

from demo.look.markup import notice
from demo.look.panels import HEAVY, PROGRESS, QUIET, Refresh, Session, no_picture, or_notice, panel
from demo.service.models import Models
from demo.service.picture import Picture
from demo.tabs import why
from demo.tabs.classify import TOP_K
from runtime.base.errors import UserError

NAME = "why"


def build(models: Models, session: Session, runs_on: gr.Dropdown) -> Refresh:
    """Lays out the pane; returns what has to be done when the picture or the model changes."""
    clicks = _Clicks(models)
    with gr.Tab("Why") as tab:
        shown = panel(why.EMPTY, elem_id="why")
        label = gr.Dropdown([], label="Look at another label", visible=False, filterable=False)
    asked = [session.picture, session.given, runs_on]
    refresh = Refresh(clicks.show, [session.pane, *asked], [label, shown])
    refresh.after(tab.select(lambda: NAME, None, session.pane, **QUIET))
    label.input(clicks.look_at, [label, *asked], shown, **HEAVY)
    return refresh


class _Clicks:
    """What happens when the pane is shown, and when another label is chosen."""

    def __init__(self, models: Models) -> None:
        self.models = models

    def show(
        self,
        pane: str,
        picture: Picture | None,
        given: bool,
        key: str,
        progress: gr.Progress = PROGRESS,
    ) -> tuple[Any, str]:  # the labels to choose from, the explanation
        if picture is None:
            return gr.update(visible=False), no_picture(given, why.EMPTY)
        if pane != NAME:
            return gr.update(visible=False), ""
        try:
            model = self.models.open(key)
            best = why.best_classes(model, picture, TOP_K)
        except UserError as error:
            return gr.update(visible=False), notice("That did not work", str(error))
        menu = [(model.card.class_names[index], index) for index in best]
        shown = self.look_at(best[0], picture, given, key, progress)
        return gr.update(choices=menu, value=best[0], visible=True), shown

    def look_at(
        self,
        index: int,
        picture: Picture | None,
        given: bool,
        key: str,
        progress: gr.Progress = PROGRESS,
    ) -> str:
        if picture is None:
            return no_picture(given, why.EMPTY)

        def report(done: int, total: int) -> None:
            progress((done, total), desc="Covering spot after spot", unit="covers")

        def html() -> str:
            model = self.models.open(key)
            found = why.explain(model, picture, index, progress=report)
            return why.why_html(model, picture, found)

        return or_notice(html)
