"""The pane that asks two models the same."""

import gradio as gr

from demo.look.panels import (
    HEAVY,
    PROGRESS,
    QUIET,
    Refresh,
    Session,
    choice_box,
    no_picture,
    or_notice,
    panel,
)
from demo.service.models import Models
from demo.service.picture import Picture
from demo.tabs import compare_view
from demo.tabs.compare import compare, compare_on_holdout

NAME = "compare"
_MENU_WIDTH = 240  # pixels, for the longest name; on a phone the two stand below one another


def build(models: Models, session: Session) -> Refresh:
    """Lays out the pane; returns what has to be done when the picture changes."""
    clicks = _Clicks(models)
    with gr.Tab("Compare") as tab:
        with gr.Row(visible=not clicks.alone):
            first = choice_box(models.menu, label="First", elem_id="first", min_width=_MENU_WIDTH)
            second = choice_box(
                models.menu,
                label="Second",
                value=models.rival,
                elem_id="second",
                min_width=_MENU_WIDTH,
            )
        shown = panel(clicks.empty, elem_id="compared")
        test_both = gr.Button(
            "Compare them on the test images", visible=not clicks.alone, size="md"
        )
        tested = panel(elem_id="tested")
    asked = [session.pane, session.picture, session.given, first, second]
    refresh = Refresh(clicks.show, asked, [shown])
    refresh.after(tab.select(lambda: NAME, None, session.pane, **QUIET))
    for box in (first, second):
        refresh.after(box.input(lambda: "", None, tested, **QUIET))
    test_both.click(clicks.test, [first, second], tested, **HEAVY)
    return refresh


class _Clicks:
    """What happens when the pane is shown, and when both models are to be tested."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.alone = len(models.menu) == 1
        self.empty = compare_view.ONLY_ONE if self.alone else compare_view.EMPTY

    def show(self, pane: str, picture: Picture | None, given: bool, first: str, second: str) -> str:
        if self.alone:
            return self.empty
        if picture is None:
            return no_picture(given, self.empty)
        if pane != NAME:
            return ""

        def html() -> str:
            found = compare(self.models.open(first), self.models.open(second), picture)
            return compare_view.comparison_html(picture, found)

        return or_notice(html)

    def test(self, first: str, second: str, progress: gr.Progress = PROGRESS) -> str:
        def report(done: int, total: int) -> None:
            progress((done, total), desc="Asking both", unit="images")

        def html() -> str:
            models = self.models.open(first), self.models.open(second)
            return compare_view.holdout_html(compare_on_holdout(*models, progress=report))

        return or_notice(html)
