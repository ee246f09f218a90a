"""The pane that shows what an answer hangs on."""

from typing import Any

import gradio as gr

from demo import why
from demo.classify import TOP_K
from demo.markup import notice
from demo.models import Models
from demo.panels import HEAVY, QUIET, Refresh, Session, or_notice, panel
from demo.picture import Picture
from runtime.errors import UserError

NAME = "why"


def build(models: Models, session: Session, runs_on: gr.Dropdown) -> Refresh:
    """Lays out the pane; returns what has to be done when the picture or the model changes."""
    progress_bar = gr.Progress()
    with gr.Tab("Why") as tab:
        shown = panel(why.EMPTY, elem_id="why")
        label = gr.Dropdown([], label="Look at another label", visible=False, filterable=False)

    def explain(opened: Picture, key: str, index: int, progress: gr.Progress) -> str:
        def report(done: int, total: int) -> None:
            progress((done, total), desc="Covering spot after spot", unit="covers")

        def html() -> str:
            model = models.open(key)
            return why.why_html(model, opened, why.explain(model, opened, index, progress=report))

        return or_notice(html)

    def on_show(
        pane: str, opened: Picture | None, key: str, progress: gr.Progress = progress_bar
    ) -> tuple[Any, str]:
        if opened is None:
            return gr.update(visible=False), why.EMPTY
        if pane != NAME:
            return gr.update(visible=False), ""
        try:
            model = models.open(key)
        except UserError as error:
            return gr.update(visible=False), notice("That did not work", str(error))
        best = why.best_classes(model, opened, TOP_K)
        menu = [(model.card.class_names[index], index) for index in best]
        return (
            gr.update(choices=menu, value=best[0], visible=True),
            explain(opened, key, best[0], progress),
        )

    def on_label(
        index: int, opened: Picture | None, key: str, progress: gr.Progress = progress_bar
    ) -> str:
        return explain(opened, key, index, progress) if opened else why.EMPTY

    refresh = Refresh(on_show, [session.pane, session.picture, runs_on], [label, shown])
    refresh.after(tab.select(lambda: NAME, None, session.pane, **QUIET))
    label.input(on_label, [label, session.picture, runs_on], shown, **HEAVY)
    return refresh
