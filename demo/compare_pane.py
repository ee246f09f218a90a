"""The pane that asks two models the same."""

import gradio as gr

from demo import compare_view
from demo.compare import compare, compare_on_holdout
from demo.models import Models
from demo.panels import HEAVY, QUIET, Refresh, Session, choice_box, or_notice, panel
from demo.picture import Picture

NAME = "compare"


def build(models: Models, session: Session) -> Refresh:
    """Lays out the pane; returns what has to be done when the picture changes."""
    progress_bar = gr.Progress()
    alone = len(models.menu) == 1
    with gr.Tab("Compare") as tab:
        with gr.Row(visible=not alone):
            first = choice_box(models.menu, label="First", elem_id="first")
            second = choice_box(models.menu, label="Second", value=models.rival, elem_id="second")
        shown = panel(compare_view.ONLY_ONE if alone else compare_view.EMPTY, elem_id="compared")
        test_both = gr.Button("Compare them on the test images", visible=not alone, size="md")
        tested = panel(elem_id="tested")

    def on_show(pane: str, opened: Picture | None, one: str, two: str) -> str:
        if alone:
            return compare_view.ONLY_ONE
        if opened is None:
            return compare_view.EMPTY
        if pane != NAME:
            return ""

        def html() -> str:
            found = compare(models.open(one), models.open(two), opened)
            return compare_view.comparison_html(opened, found)

        return or_notice(html)

    def on_test(one: str, two: str, progress: gr.Progress = progress_bar) -> str:
        def report(done: int, total: int) -> None:
            progress((done, total), desc="Asking both", unit="images")

        def html() -> str:
            found = compare_on_holdout(models.open(one), models.open(two), progress=report)
            return compare_view.holdout_html(found)

        return or_notice(html)

    refresh = Refresh(on_show, [session.pane, session.picture, first, second], [shown])
    refresh.after(tab.select(lambda: NAME, None, session.pane, **QUIET))
    for box in (first, second):
        refresh.after(box.input(lambda: "", None, tested, **QUIET))
    test_both.click(on_test, [first, second], tested, **HEAVY)
    return refresh
