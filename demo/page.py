"""The page: which tab holds what. Each tab lays itself out and answers its own clicks."""

from collections.abc import Callable

import gradio as gr

from demo.look.header import head_html
from demo.look.panels import panel
from demo.service.models import Models
from demo.tabs import ask_tab, bench_tab, many_tab
from demo.tabs.card_view import card_html

DELETE_CACHE_S = (10, 60)  # every 10 s, uploads older than a minute
MAX_WAITING = 64  # clicks that are not yet answered, of all users
MAX_SESSIONS = 256  # whose last picture is remembered; the oldest is forgotten first


def build_page(models: Models) -> gr.Blocks:
    """Lays the page out over `models`, which all its users share."""
    model = models.first
    page = gr.Blocks(
        title=f"SKD Edge: {model.card.arch}",
        analytics_enabled=False,
        delete_cache=DELETE_CACHE_S,
    )
    page.state_session_capacity = MAX_SESSIONS
    page.has_launched = True  # or else Gradio does not check which files a call may name
    with page:
        panel(head_html(model.card), script=None)
        with gr.Tabs(elem_id="sections"):
            with gr.Tab("Classify"):
                ask_tab.build(models)
            with gr.Tab("Many"):
                many_tab.build(models)
            with gr.Tab("Model card"):
                panel(card_html(model.card, model.choice.path), script=None)
            with gr.Tab("Benchmark"):
                bench_tab.build(models)
        page.unload(_forget(page))
    page.queue(api_open=False, default_concurrency_limit=8, max_size=MAX_WAITING)
    return page


def _forget(page: gr.Blocks) -> Callable[[gr.Request], None]:
    """Gradio would keep a closed tab's state for an hour, and its last outputs for ever."""

    def forget(request: gr.Request) -> None:
        session = request.session_hash or ""
        page.state_holder.delete_state(session)
        page.state_holder.session_data.pop(session, None)
        page.state_holder.time_last_used.pop(session, None)

    return forget
