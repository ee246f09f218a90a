"""The HTTP API: classify, health, the card, metrics, the Open Inference Protocol, OpenAPI."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline

from runtime.inference.batcher import Batcher
from runtime.inference.classifier import Classifier
from runtime.server.admission import BodyBudget, RoomGuard, ServerSettings, TokenGuard
from runtime.server.answers import component_schemas, handle_problems
from runtime.server.metrics import MeasuredRequests, Metrics
from runtime.server.routes import add_classify
from runtime.server.served_models import ServedModels
from runtime.server.status_routes import add_status
from runtime.server.v2_messages import v2_schemas
from runtime.server.v2_routes import add_v2


def build_api(
    source: Classifier | Batcher | ServedModels, *, settings: ServerSettings | None = None
) -> FastAPI:
    """The API as an application. Its documentation page at `/docs` loads nothing from elsewhere.

    Args:
        source: a batcher, which the caller closes; or a classifier, for which the API makes a
            batcher and closes it when the server ends. An API that is mounted in another
            application needs a batcher, because Starlette does not tell a mounted application
            when the server ends. Or several models, whose batchers the caller closes.
        settings: the limits and the token; default those of `ServerSettings`.
    """
    settings = settings or ServerSettings()
    own: Batcher | None = None
    if isinstance(source, Classifier):
        source = own = Batcher(source)
    models = ServedModels.of(source) if isinstance(source, Batcher) else source

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        _check_process(models.default.current.batcher)
        yield
        if own is not None:
            await asyncio.to_thread(own.close)  # answers what was accepted

    api = FastAPIOffline(
        redoc_url=None,
        title="SKD Edge",
        summary="Images in, labels out.",
        version="1",
        lifespan=lifespan,
    )
    api.state.models = models
    metrics = Metrics(models)
    api.add_middleware(RoomGuard, models=models)
    api.add_middleware(MeasuredRequests, metrics=metrics)
    handle_problems(api)
    guard = TokenGuard(settings.token)
    budget = BodyBudget(settings.max_memory_bytes)
    add_classify(api, models, settings, guard, budget)
    add_v2(api, models, settings, guard, budget)
    add_status(api, models, metrics, guard)
    api.openapi = lambda: _description(api)  # type: ignore[method-assign]
    return api


def _check_process(batcher: Batcher) -> None:
    """Refuses to start where the application was opened before a fork, which could not answer.

    It is a function, since the lifespan would keep a variable, and a replaced model, to its end.
    """
    if batcher.forked:
        raise batcher.refusal()


def _description(api: FastAPI) -> dict[str, Any]:
    """The OpenAPI description, to which the schemas of our own structs are added."""
    if api.openapi_schema is None:
        schema = get_openapi(
            title=api.title, summary=api.summary, version=api.version, routes=api.routes
        )
        schema.setdefault("components", {}).setdefault("schemas", {}).update(
            component_schemas() | v2_schemas()
        )
        api.openapi_schema = schema
    return api.openapi_schema
