"""What all tabs use: our HTML in Gradio's page, and errors as a message in place of a result."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from demo.look.markup import notice
from runtime.base.errors import UserError

# Quick answers. No event is an endpoint for programs: that is what /v1 is for. "multiple": a click
# that comes while the last one is being answered is answered too.
QUIET: dict[str, Any] = {
    "api_visibility": "private",
    "show_progress": "hidden",
    "trigger_mode": "multiple",
}
# Work that takes a second or more: a few at once, so that a quick answer always finds a thread.
HEAVY: dict[str, Any] = {
    "api_visibility": "private",
    "show_progress": "full",
    "concurrency_id": "heavy",
    "concurrency_limit": 2,
}
PROGRESS = gr.Progress()  # Gradio looks for it as the default of an argument
FORGET_S = 600  # after it came, a picture's small views
FORGOTTEN = notice(
    "Your picture was forgotten",
    f"The server keeps a picture for {FORGET_S // 60} minutes at most. Send it again.",
    kind="hint",
)
# A screen reader tells what comes to be shown.
_LIVE = 'element.setAttribute("aria-live", "polite")'


def panel(html: str = "", *, script: str | None = _LIVE, **options: Any) -> gr.HTML:
    """Our HTML, styled by page.css alone."""
    return gr.HTML(html, elem_classes="skd", apply_default_css=False, js_on_load=script, **options)


def or_notice(answer: Callable[[], str]) -> str:
    """The HTML that `answer` returns, or the message of its UserError."""
    try:
        return answer()
    except UserError as error:
        return notice("That did not work", str(error))


def choice_box(
    menu: list[tuple[str, str]], *, label: str, value: str | None = None, **options: Any
) -> gr.Dropdown:
    """A list of models; the first unless `value` says another. With but one, it is closed."""
    return gr.Dropdown(
        menu,
        value=value or menu[0][1],
        label=label,
        interactive=len(menu) > 1,
        filterable=False,
        **options,
    )


@dataclass(frozen=True)
class Session:
    """What is remembered of one browser tab.

    Attributes:
        picture: its last picture; in the server, which forgets it.
        given: whether its answer is of a picture; in the browser, which does not forget.
        pane: the pane that it shows.
    """

    picture: gr.State
    given: gr.Checkbox
    pane: gr.State


def no_picture(given: bool, empty: str) -> str:
    """What is shown where there is no picture: `empty`, or that there was one."""
    return FORGOTTEN if given else empty


@dataclass(frozen=True)
class Refresh:
    """Work that brings a pane up to date; it does little while the pane is not shown.

    The last of `outputs` is the panel over which progress is shown.
    """

    function: Callable[..., Any]
    inputs: list[Any]
    outputs: list[Any]

    def after(self, event: Any) -> None:
        """Does it after `event`, which may have changed the picture, the model or the pane."""
        panel = self.outputs[-1]
        event.then(self.function, self.inputs, self.outputs, show_progress_on=panel, **HEAVY)
