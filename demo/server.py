"""One process, one port: the page, and nothing that it does not need."""

import logging
import socket
from collections.abc import Sequence
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI

from demo.guard import Application, Guard
from demo.models import LIMITS, Models
from demo.page import build_page
from demo.theme import build_theme, head_script, style_sheet

_SHUTDOWN_S = 2  # open event streams of browsers would else hold the process


def build_application(models: Models, *, auth: tuple[str, str] | None) -> Application:
    """The page as an ASGI application."""
    application = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gr.mount_gradio_app(
        application,
        build_page(models),
        path="/",
        auth=auth,
        theme=build_theme(),
        css=style_sheet(),
        head=head_script(),
        show_error=False,
        max_file_size=LIMITS.max_bytes,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
    )
    return Guard(application)


def serve(paths: Sequence[Path], listener: socket.socket, *, auth: tuple[str, str] | None) -> None:
    """Serves the page until interrupted."""
    models = Models(paths)
    try:
        application = build_application(models, auth=auth)
        print(models.first.classifier.describe())  # noqa: T201
        host, port = listener.getsockname()[:2]
        print(f"page: http://{host}:{port}  (Ctrl + C ends it)", flush=True)  # noqa: T201
        config = uvicorn.Config(
            application, log_level=logging.WARNING, timeout_graceful_shutdown=_SHUTDOWN_S
        )
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        pass  # the way it is meant to end
    finally:
        models.close()
