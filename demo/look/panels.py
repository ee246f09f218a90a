"""What all tabs use: panels of our HTML, messages for errors, and what a browser tab keeps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import gradio as gr

from demo.look.markup import notice
from runtime.base.errors import UserError

_Found = TypeVar("_Found")
_Skipped = TypeVar("_Skipped")

# For answers that come at once. No event is an endpoint for programs, because they have /v1. With
# "multiple", a click is answered too that comes while the last one is being answered.
QUIET: dict[str, Any] = {
    "api_visibility": "private",
    "show_progress": "hidden",
    "trigger_mode": "multiple",
}
# For work that takes a second or more. Few of these run at once, so that an answer that comes at
# once always finds a thread. With "always_last", work that is asked for while the same work is
# being done is done next; by default Gradio would drop it.
HEAVY: dict[str, Any] = {
    "api_visibility": "private",
    "show_progress": "full",
    "trigger_mode": "always_last",
    "concurrency_id": "heavy",
    "concurrency_limit": 2,
}
PROGRESS = gr.Progress()  # Gradio recognises it as the default value of an argument
FORGET_S = 600  # seconds that the small views of a picture are kept
FORGOTTEN = notice(
    "Your picture was forgotten",
    f"The server keeps a picture for {FORGET_S // 60} minutes at most. Send it again.",
    kind="hint",
)
# With this, a screen reader reads out what the panel shows next.
_LIVE = 'element.setAttribute("aria-live", "polite")'


def panel(html: str = "", *, script: str | None = _LIVE, **options: Any) -> gr.HTML:
    """Lays out our HTML, which only page.css styles.

    Args:
        html: what is shown at first.
        script: JavaScript that runs once for the panel's `element`; None: none.
        options: further arguments of `gr.HTML`.
    """
    return gr.HTML(html, elem_classes="skd", apply_default_css=False, js_on_load=script, **options)


def or_notice(answer: Callable[[], str]) -> str:
    """The HTML that `answer` returns, or the message of its UserError."""
    try:
        return answer()
    except UserError as error:
        return notice("That did not work", str(error))


def model_menu(
    menu: list[tuple[str, str]], *, label: str, value: str | None = None, **options: Any
) -> gr.Dropdown:
    """Lays out a list from which a model is chosen; with only one model it cannot be opened.

    Args:
        menu: the title and the key of each model.
        label: what stands above the list.
        value: the key of the model that is chosen at first; default the first one's.
        options: further arguments of `gr.Dropdown`.
    """
    return gr.Dropdown(
        menu,
        value=value or menu[0][1],
        label=label,
        interactive=len(menu) > 1,
        filterable=False,
        **options,
    )


@dataclass(frozen=True)
class TabState:
    """What is remembered of one browser tab.

    Attributes:
        picture: its last picture; the server keeps it, and forgets it after FORGET_S.
        had_picture: whether a picture was answered; the browser keeps it, and does not forget it.
        pane: the name of the pane that it shows.
    """

    picture: gr.State
    had_picture: gr.Checkbox
    pane: gr.State


@dataclass
class Turn:
    """Which event of one browser tab counts. Events are answered side by side, in any order.

    Attributes:
        last: the number of the last event.
    """

    last: int = 0

    def take(self) -> int:
        """A number for a new event; the events with lower numbers no longer count."""
        self.last += 1
        return self.last

    def unless_overtaken(self, work: Callable[[], _Found], skipped: _Skipped) -> _Found | _Skipped:
        """What `work` returns, or `skipped` if another event has come meanwhile."""
        mine = self.take()
        found = work()
        return found if mine == self.last else skipped


def no_picture(had_picture: bool, empty: str) -> str:
    """What a pane shows without a picture: `empty`, or that the picture was forgotten."""
    return FORGOTTEN if had_picture else empty


@dataclass(frozen=True)
class PaneUpdate:
    """Work that brings a pane up to date; it does little while the pane is not shown.

    Attributes:
        function: what is called.
        inputs: the components whose values it takes.
        outputs: the components whose values it returns; progress is shown over the last one.
    """

    function: Callable[..., Any]
    inputs: list[Any]
    outputs: list[Any]

    def after(self, event: Any) -> None:
        """Does the work after `event`, which may have changed the picture, the model or the pane.

        Args:
            event: what Gradio returns for a connected event, such as a click.
        """
        panel = self.outputs[-1]
        event.then(self.function, self.inputs, self.outputs, show_progress_on=panel, **HEAVY)
