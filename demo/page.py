"""The page: its head, and which tab holds what. Each tab lays itself out and answers its clicks."""

from collections.abc import Callable

import gradio as gr

from demo.look import wording
from demo.look.markup import text
from demo.look.panels import panel
from demo.service.models import Models
from demo.tabs import benchmark, classify, many, model_card
from runtime.model.card import Card

DELETE_CACHE_S = (10, 60)  # every 10 s, uploads older than a minute are deleted
MAX_WAITING = 64  # clicks of all users that wait for their answer
MAX_SESSIONS = 256  # browser tabs whose last picture is remembered; the oldest is forgotten first
# How many class names the head lists: all of them, or a few of many.
_ALL_SHOWN = 10
_SOME_SHOWN = 6


def build_page(models: Models) -> gr.Blocks:
    """Lays out the page over `models`, which all its users share."""
    card = models.first.card
    page = gr.Blocks(
        title=f"SKD Edge: {card.arch}",
        analytics_enabled=False,
        delete_cache=DELETE_CACHE_S,
    )
    page.state_session_capacity = MAX_SESSIONS
    # Without it, Gradio does not check which files a call may name.
    page.has_launched = True
    with page:
        panel(head_html(card), script=None)
        with gr.Tabs(elem_id="sections"):
            with gr.Tab("Classify"):
                classify.build(models)
            with gr.Tab("Many"):
                many.build(models)
            with gr.Tab("Model card"):
                model_card.build(models)
            with gr.Tab("Benchmark"):
                benchmark.build(models)
        page.unload(_forget(page))
    page.queue(api_open=False, default_concurrency_limit=8, max_size=MAX_WAITING)
    return page


def head_html(card: Card) -> str:
    """The head of the page: the student, the classes that it tells apart, and three figures."""
    provenance = card.provenance
    figures = [
        ("right on test images", wording.percent(provenance.top1)),
        ("parameters", wording.count(provenance.params)),
        ("input", wording.square(card.input.size)),
    ]
    shown = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in figures
    )
    return (
        '<header class="head"><div class="brand"><small>SKD Edge</small>'
        f"<h1>{text(wording.model(card))}</h1><p>{text(_classes(card.class_names))}</p></div>"
        f'<dl class="figures">{shown}</dl></header>'
    )


def _classes(names: tuple[str, ...]) -> str:
    shown = len(names) if len(names) <= _ALL_SHOWN else _SOME_SHOWN
    rest = f", and {len(names) - shown:,} more" if len(names) > shown else ""
    listed = ", ".join(names[:shown])
    return f"A compact network that tells {len(names):,} classes apart: {listed}{rest}."


def _forget(page: gr.Blocks) -> Callable[[gr.Request], None]:
    """What to do when a browser tab is closed.

    Without it, Gradio would keep the tab's state for an hour, and its last outputs for ever.
    """

    def forget(request: gr.Request) -> None:
        session = request.session_hash or ""
        page.state_holder.delete_state(session)
        page.state_holder.session_data.pop(session, None)
        page.state_holder.time_last_used.pop(session, None)

    return forget
