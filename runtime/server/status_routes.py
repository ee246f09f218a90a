"""The routes that tell about the server: health, readiness, the model and metrics."""

from fastapi import FastAPI, Request, Response

from runtime.inference.batcher import Batcher
from runtime.server.admission import TokenGuard
from runtime.server.answers import (
    ModelAnswer,
    Responses,
    Status,
    described,
    documented,
    overloaded,
    respond,
)
from runtime.server.metrics import CONTENT_TYPE, Metrics
from runtime.server.routes import model_parameter, named_model
from runtime.server.served_models import ServedModels

_EXPOSITION: Responses = {
    200: {"description": "Prometheus' text format.", "content": {"text/plain": {}}}
}


def add_status(api: FastAPI, models: ServedModels, metrics: Metrics, guard: TokenGuard) -> None:
    """Adds health and readiness for everybody, and the model and metrics for those with the token.

    Every route also answers HEAD, with which some monitors ask. FastAPI, unlike Starlette, answers
    HEAD only where it is told to.

    Args:
        api: gets the routes.
        models: what they tell about.
        metrics: what `/metrics` shows.
        guard: asks for the token.
    """
    refusals = documented(*guard.statuses)

    @api.head("/healthz", include_in_schema=False)
    @api.get("/healthz", responses=described(Status, "The process lives.") | documented(503))
    async def healthz(request: Request) -> Response:
        """Whether the process lives. 503: it must be started again, since it has lost its GPU."""
        if (lost := lost_batcher(models)) is not None:
            return overloaded(request.scope, str(lost.refusal()), 0)
        return respond(Status(status="ok"))

    @api.head("/readyz", include_in_schema=False)
    @api.get("/readyz", responses=described(Status, "Images are accepted.") | documented(503))
    async def readyz(request: Request) -> Response:
        """Whether every model accepts images now."""
        if (refused := refused_batcher(models)) is not None:
            return overloaded(request.scope, str(refused.refusal()), refused.drain_seconds)
        return respond(Status(status="ok"))

    @api.head("/v1/model", include_in_schema=False, dependencies=guard.dependencies)
    @api.get(
        "/v1/model",
        dependencies=guard.dependencies,
        responses=described(ModelAnswer, "The model that answers.") | refusals | documented(422),
        openapi_extra={"parameters": [model_parameter(models)]},
    )
    async def model(request: Request) -> Response:
        """What runs, on what and why, and the card of the model."""
        served = named_model(request.query_params, models)
        current = served.current
        classifier = current.batcher.classifier
        answer = ModelAnswer(
            name=served.name,
            version=current.version,
            models=models.names,
            backend=classifier.backend,
            precision=classifier.precision,
            reason=classifier.reason,
            max_batch=current.batcher.max_batch,
            threshold=classifier.threshold,
            no_threshold=classifier.no_threshold,
            card=classifier.card,
        )
        return respond(answer)

    @api.head("/metrics", include_in_schema=False, dependencies=guard.dependencies)
    @api.get(
        "/metrics",
        dependencies=guard.dependencies,
        responses=_EXPOSITION | refusals,
    )
    async def exposition() -> Response:
        """Requests, batches and the queue, for Prometheus."""
        return Response(metrics.exposition(), media_type=CONTENT_TYPE)


def refused_batcher(models: ServedModels) -> Batcher | None:
    """A batcher of `models` that accepts no images now; None if all do."""
    current = [model.current.batcher for model in models.by_name.values()]
    return next((batcher for batcher in current if not batcher.running), None)


def lost_batcher(models: ServedModels) -> Batcher | None:
    """A batcher of `models` that has lost its GPU, so that this process must end; None if none."""
    current = [model.current.batcher for model in models.by_name.values()]
    return next((batcher for batcher in current if batcher.device_lost), None)
