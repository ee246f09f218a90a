"""One process, one port: the page, and on request the HTTP API of `python -m runtime serve`."""

import socket
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI

from demo.look.theme import FAVICON, build_theme, head_elements
from demo.page import build_page
from demo.service.guard import MAX_UPLOAD_BYTES, Application, Guard, Receive, Scope, Send
from demo.service.models import Models
from runtime.inference.batcher import Batcher
from runtime.model.model_name import default_name
from runtime.server.listening import freeze_loaded, http_address
from runtime.server.served_models import ServedModel, ServedModels
from runtime.server.server_config import server_config
from runtime.server.sub_path import SubPath, path_of

_SHUTDOWN_S = 2  # without a limit, the open event streams of browsers would hold the process


@dataclass(frozen=True)
class Access:
    """Who may use what.

    Attributes:
        login: the user and password that the page asks for; None: the page asks nobody.
        api: whether programs are served too.
        token: the bearer token that programs must send; None: they need none.
        root: the path below which a proxy shows the page, such as /skd; empty: none.
        trust_forwarded_prefix: whether X-Forwarded-Prefix of a request is believed before `root`.
    """

    login: tuple[str, str] | None = None
    api: bool = False
    token: str | None = None
    root: str = ""
    trust_forwarded_prefix: bool = False


def serve(paths: Sequence[Path], listener: socket.socket, access: Access, *, uploads: Path) -> None:
    """Serves the page until it is interrupted.

    Args:
        paths: one or two models.
        listener: the socket to serve on.
        access: who may use what.
        uploads: Gradio's temporary folder.

    Raises:
        UserError: a model cannot be opened.
    """
    with ExitStack() as closing:
        models = Models(paths)
        closing.callback(models.close)
        application = build_page_application(
            models,
            uploads=uploads,
            login=access.login,
            root="" if access.trust_forwarded_prefix else access.root,
        )
        if access.api:
            application = with_api(application, _api_models(models, closing), token=access.token)
        if access.root or access.trust_forwarded_prefix:
            application = SubPath(
                application, root=access.root, trust_header=access.trust_forwarded_prefix
            )
        print(models.first.classifier.describe())  # noqa: T201
        config = server_config(application, timeout_graceful_shutdown=_SHUTDOWN_S)
        freeze_loaded()
        with suppress(KeyboardInterrupt):  # the usual way to end it, from its address on
            print(_address(listener, access), flush=True)  # noqa: T201
            uvicorn.Server(config).run(sockets=[listener])


def build_page_application(
    models: Models, *, uploads: Path, login: tuple[str, str] | None = None, root: str = ""
) -> Application:
    """The page as an ASGI application, without everything that it does not need.

    Args:
        models: what answers.
        uploads: Gradio's temporary folder.
        login: the user and password to ask for; None: nobody is asked.
        root: the path below which a proxy shows the page; empty: none.
    """
    application = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gr.mount_gradio_app(
        application,
        build_page(models),
        path="/",
        auth=login,
        theme=build_theme(),
        head=head_elements(),
        favicon_path=str(FAVICON),
        show_error=False,
        # The limit of one file is the page's own: Gradio would drop every file that came with one
        # that is too large, while the page names the file and answers the others.
        max_file_size=MAX_UPLOAD_BYTES,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        root_path=root or None,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
    )
    return Guard(application, uploads=uploads)


def _api_models(models: Models, closing: ExitStack) -> ServedModels:
    """What programs can ask: the best entry of each bundle, by its name.

    Two bundles of one name are there to be compared on the page; programs get the first of them.
    """
    served: dict[str, ServedModel] = {}
    for path in models.paths:
        key = next(entry.key for entry in models.entries if entry.path == path)
        classifier = models.open(key).classifier
        name = default_name(classifier.card)
        if name in served:
            print(f"API: only the first model called {name} is served")  # noqa: T201
            continue
        batcher = Batcher(classifier)
        closing.callback(batcher.close)
        served[name] = ServedModel(name, batcher)
    return ServedModels(list(served.values()))


def with_api(page: Application, models: ServedModels, *, token: str | None) -> Application:
    """An application that answers the API's own paths (/v1, /v2, /docs, ...) beside `page`.

    Args:
        page: answers all other paths.
        models: what the API asks.
        token: the bearer token that programs must send; None: they need none.
    """
    from runtime.server.admission import ServerSettings
    from runtime.server.api import build_api

    api = build_api(models, settings=ServerSettings(token=token))
    paths = [*api.openapi()["paths"], *(getattr(route, "path", "") for route in api.routes)]
    owned = {_first_part(path) for path in paths if path}

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        to_api = "path" in scope and _first_part(path_of(scope)) in owned
        await (api if to_api else page)(scope, receive, send)

    return application


def _first_part(path: str) -> str:
    return path.lstrip("/").partition("/")[0]


def _address(listener: socket.socket, access: Access) -> str:
    address = http_address(listener) + access.root
    api = f", API: {address}/docs" if access.api else ""
    return f"page: {address}{api}  (Ctrl + C ends it)"
