"""The routes: classify, health, the model and metrics."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import pydantic
from fastapi import APIRouter, Query, Request, Response
from fastapi.params import Depends
from starlette.exceptions import HTTPException

from runtime.batcher import Batcher
from runtime.classifier import DEFAULT_TOP_K, Predictions
from runtime.errors import ImageError
from runtime.server.answers import (
    ClassifyAnswer,
    ImageResult,
    ModelAnswer,
    Status,
    described,
    respond,
)
from runtime.server.bodies import FORM_TYPE, RAW_TYPES, BodyBudget, BodyReader
from runtime.server.forms import NamedImage
from runtime.server.metrics import CONTENT_TYPE, Metrics
from runtime.server.problems import Responses, documented, problem
from runtime.server.settings import ServerSettings

CLASSIFY_PATH = "/v1/classify"
_BINARY = {"type": "string", "format": "binary"}
_FORM = {
    "type": "object",
    "properties": {"images": {"type": "array", "items": _BINARY, "minItems": 1}},
    "required": ["images"],
    "additionalProperties": False,
}
_BODY: dict[str, Any] = {
    "required": True,
    "content": {kind: {"schema": _BINARY} for kind in RAW_TYPES} | {FORM_TYPE: {"schema": _FORM}},
}

_EXPOSITION: Responses = {
    200: {"description": "Prometheus' text format.", "content": {"text/plain": {}}}
}


class ClassifyQuery(pydantic.BaseModel, extra="forbid"):
    """The query of a classify request; a misspelt name is refused, not ignored."""

    top_k: int = pydantic.Field(
        default=DEFAULT_TOP_K, ge=1, le=2**31 - 1, description="most classes of one image"
    )


def classify_router(
    batcher: Batcher, settings: ServerSettings, guard: Sequence[Depends]
) -> APIRouter:
    """`POST /v1/classify`."""
    router = APIRouter(dependencies=guard)
    budget = BodyBudget(settings.max_memory_bytes)

    @router.post(
        CLASSIFY_PATH,
        responses=described(ClassifyAnswer, "The classes of each image, most probable first.")
        | documented(400, *([401] if guard else []), 408, 413, 415, 422, 503),
        openapi_extra={"requestBody": _BODY},
    )
    async def classify(request: Request, query: Annotated[ClassifyQuery, Query()]) -> Response:
        """Labels one image (the raw body) or many (the files of a multipart form).

        Of many, a broken one is answered with its `error` and the others with their classes.
        """
        batcher.require_room(1)  # before the body is read: refusing must cost little
        reader = BodyReader(request, settings, budget)
        try:
            images = await reader.images()
            return respond(await _answer(batcher, images, query.top_k, settings.timeout_seconds))
        finally:
            reader.release()

    return router


def status_router(batcher: Batcher, metrics: Metrics, guard: Sequence[Depends]) -> APIRouter:
    """Health and readiness for all; the model and metrics for those with the token."""
    router = APIRouter()
    refusals = documented(401) if guard else {}

    @router.get("/healthz", responses=described(Status, "The process answers."))
    async def healthz() -> Response:
        """Whether the process lives."""
        return respond(Status(status="ok"))

    @router.get("/readyz", responses=described(Status, "Images are accepted.") | documented(503))
    async def readyz() -> Response:
        """Whether images are accepted now."""
        if not batcher.running:
            return problem(503, "the server is closing")
        return respond(Status(status="ok"))

    @router.get(
        "/v1/model",
        dependencies=guard,
        responses=described(ModelAnswer, "The model that answers.") | refusals,
    )
    async def model() -> Response:
        """What runs, where, why, and its card."""
        classifier = batcher.classifier
        answer = ModelAnswer(
            backend=classifier.backend,
            precision=classifier.precision,
            reason=classifier.reason,
            max_batch=batcher.max_batch,
            card=classifier.card,
        )
        return respond(answer)

    @router.get(
        "/metrics",
        dependencies=guard,
        responses=_EXPOSITION | refusals,
    )
    async def exposition() -> Response:
        """Requests, images, batches and the queue, for Prometheus."""
        return Response(metrics.exposition(), media_type=CONTENT_TYPE)

    return router


async def _answer(
    batcher: Batcher, images: list[NamedImage], top_k: int, timeout: float
) -> ClassifyAnswer:
    """The answers of all images; the ImageError if there is no other answer."""
    futures = batcher.submit_all(
        [image.content for image in images], top_k=top_k, names=[image.name for image in images]
    )
    waiting = asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
    try:
        outcomes = await asyncio.wait_for(waiting, timeout)
    except asyncio.TimeoutError:
        raise HTTPException(503, f"not answered within {timeout:g} s; try again later") from None
    results = [
        _result(image.name, outcome) for image, outcome in zip(images, outcomes, strict=True)
    ]
    if all(result.predictions is None for result in results):
        raise ImageError("; ".join(str(result.error) for result in results))
    return ClassifyAnswer(results=results)


def _result(name: str, outcome: Predictions | BaseException) -> ImageResult:
    if isinstance(outcome, ImageError):
        return ImageResult(name=name, error=str(outcome))
    if isinstance(outcome, BaseException):
        raise outcome
    return ImageResult(name=name, predictions=outcome)
