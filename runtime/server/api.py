"""The HTTP API: classify, health, the model's card, metrics and the OpenAPI page."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline

from runtime.inference.batcher import Batcher
from runtime.inference.classifier import Classifier
from runtime.server.admission import RoomGuard, ServerSettings, TokenGuard
from runtime.server.answers import component_schemas, handle_problems
from runtime.server.metrics import MeasuredRequests, Metrics
from runtime.server.routes import CLASSIFY_PATH, add_classify, add_status


def build_api(source: Classifier | Batcher, *, settings: ServerSettings | None = None) -> FastAPI:
    """The API as an application. Its documentation page at `/docs` loads nothing from elsewhere.

    Args:
        source: a batcher, which the caller closes; or a classifier, for which the API makes a
            batcher and closes it when the server ends. An API that is mounted in another
            application needs a batcher, because Starlette does not tell a mounted application
            when the server ends.
        settings: the limits and the token; default those of `ServerSettings`.
    """
    settings = settings or ServerSettings()
    batcher = source if isinstance(source, Batcher) else Batcher(source)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if batcher.forked:  # a server that opens the application and then forks could not answer
            raise batcher.refusal()
        yield
        if batcher is not source:
            await asyncio.to_thread(batcher.close)  # answers what was accepted

    api = FastAPIOffline(
        redoc_url=None,
        title="SKD Edge",
        summary="Images in, labels out.",
        version="1",
        lifespan=lifespan,
    )
    api.state.batcher = batcher
    metrics = Metrics(batcher)
    api.add_middleware(RoomGuard, batcher=batcher, path=CLASSIFY_PATH)
    api.add_middleware(MeasuredRequests, metrics=metrics, path=CLASSIFY_PATH)
    handle_problems(api)
    guard = TokenGuard(settings.token)
    add_classify(api, batcher, settings, guard)
    add_status(api, batcher, metrics, guard)
    api.openapi = lambda: _description(api)  # type: ignore[method-assign]
    return api


def _description(api: FastAPI) -> dict[str, Any]:
    """The OpenAPI description, to which the schemas of our own structs are added."""
    if api.openapi_schema is None:
        schema = get_openapi(
            title=api.title, summary=api.summary, version=api.version, routes=api.routes
        )
        schema.setdefault("components", {}).setdefault("schemas", {}).update(component_schemas())
        api.openapi_schema = schema
    return api.openapi_schema
