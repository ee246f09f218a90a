"""The routes: classify, health, the model and metrics."""

import asyncio
from concurrent.futures import Future
from typing import Any

from anyio import fail_after
from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from runtime.base.errors import ImageError, OverloadedError
from runtime.inference.batcher import Batcher
from runtime.inference.classifier import DEFAULT_TOP_K, Predictions
from runtime.server.access import TokenGuard
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
from runtime.server.problems import Responses, documented, overloaded
from runtime.server.settings import ServerSettings

CLASSIFY_PATH = "/v1/classify"
_MAX_TOP_K = 2**31 - 1
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
_PARAMETERS = [
    {
        "name": "top_k",
        "in": "query",
        "description": "most classes of one image",
        "schema": {
            "type": "integer",
            "minimum": 1,
            "maximum": _MAX_TOP_K,
            "default": DEFAULT_TOP_K,
        },
    }
]
_EXPOSITION: Responses = {
    200: {"description": "Prometheus' text format.", "content": {"text/plain": {}}}
}


class LeanRoute(APIRoute):
    """A route whose endpoint takes the request alone.

    FastAPI's own handler solves dependencies and parameters for longer than decoding a small image
    takes, and closes two stacks of them. Here the signature only describes them; the endpoint reads
    them from the request.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.app = self._respond

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        response: Response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


def add_classify(
    api: FastAPI, batcher: Batcher, settings: ServerSettings, guard: TokenGuard
) -> None:
    """Adds `POST /v1/classify`."""
    budget = BodyBudget(settings.max_memory_bytes)

    async def classify(request: Request) -> Response:
        """Labels one image (the raw body) or many (the files of a multipart form).

        Of many, a broken one is answered with its `error` and the others with their classes.
        """
        guard.check(request)
        top_k = _top_k(request.query_params)
        reader = BodyReader(request, settings, budget)
        try:
            images = await reader.images()
            return respond(await _answer(batcher, images, top_k, settings.timeout_seconds))
        finally:
            reader.release()

    # Straight on the application: an included router is looked through twice.
    api.router.add_api_route(
        CLASSIFY_PATH,
        classify,
        methods=["POST"],
        route_class_override=LeanRoute,
        dependencies=guard.dependencies,
        responses=described(ClassifyAnswer, "The classes of each image, most probable first.")
        | documented(400, *guard.statuses, 408, 413, 415, 422, 503),
        openapi_extra={"requestBody": _BODY, "parameters": _PARAMETERS},
    )


def add_status(api: FastAPI, batcher: Batcher, metrics: Metrics, guard: TokenGuard) -> None:
    """Adds health and readiness for all; the model and metrics for those with the token.

    Monitors ask by HEAD too; FastAPI, unlike Starlette, answers that only where it is told to.
    """
    refusals = documented(*guard.statuses)

    @api.head("/healthz", include_in_schema=False)
    @api.get("/healthz", responses=described(Status, "The process answers."))
    async def healthz() -> Response:
        """Whether the process lives."""
        return respond(Status(status="ok"))

    @api.head("/readyz", include_in_schema=False)
    @api.get("/readyz", responses=described(Status, "Images are accepted.") | documented(503))
    async def readyz() -> Response:
        """Whether images are accepted now."""
        if not batcher.running:
            return overloaded("the server is closing", batcher.drain_seconds)
        return respond(Status(status="ok"))

    @api.head("/v1/model", include_in_schema=False, dependencies=guard.dependencies)
    @api.get(
        "/v1/model",
        dependencies=guard.dependencies,
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

    @api.head("/metrics", include_in_schema=False, dependencies=guard.dependencies)
    @api.get(
        "/metrics",
        dependencies=guard.dependencies,
        responses=_EXPOSITION | refusals,
    )
    async def exposition() -> Response:
        """Requests, images, batches and the queue, for Prometheus."""
        return Response(metrics.exposition(), media_type=CONTENT_TYPE)


def _top_k(query: QueryParams) -> int:
    """The one parameter of the query; a misspelt name is refused, not ignored."""
    if unknown := [name for name in query if name != "top_k"]:
        raise HTTPException(422, f"query: {unknown[0]!r} is unknown; expected top_k or nothing")
    text = query.get("top_k", str(DEFAULT_TOP_K))
    # Digits of other scripts are decimals to Python, and 20 of any kind are no sensible number.
    if text.isascii() and text.isdecimal() and len(text) <= len(str(_MAX_TOP_K)):
        top_k = int(text)
        if 1 <= top_k <= _MAX_TOP_K:
            return top_k
    raise HTTPException(422, f"query: top_k is {text[:20]!r}; expected an integer from 1")


async def _answer(
    batcher: Batcher, images: list[NamedImage], top_k: int, timeout: float
) -> ClassifyAnswer:
    """The answers of all images; the ImageError if there is no other answer."""
    futures = batcher.submit_all(
        [image.content for image in images], top_k=top_k, names=[image.name for image in images]
    )
    try:
        with fail_after(timeout):
            results = [
                _result(image.name, await _outcome(future))
                for image, future in zip(images, futures, strict=True)
            ]
    except TimeoutError:
        raise OverloadedError(f"not answered within {timeout:g} s; try again later") from None
    finally:
        for future in futures:
            future.cancel()  # what is not decoded yet need not be, if nobody waits for it
    if all(result.predictions is None for result in results):
        raise ImageError("; ".join(str(result.error) for result in results))
    return ClassifyAnswer(results=results)


async def _outcome(future: "Future[Predictions]") -> Predictions | ImageError:
    try:
        return await asyncio.wrap_future(future)
    except ImageError as error:
        return error


def _result(name: str, outcome: Predictions | ImageError) -> ImageResult:
    if isinstance(outcome, ImageError):
        return ImageResult(name=name, error=str(outcome))
    return ImageResult(name=name, predictions=outcome)
