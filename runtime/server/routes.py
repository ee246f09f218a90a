"""The routes: classify, health, the model and metrics."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from anyio import fail_after
from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException

from runtime.base.errors import ImageError, OverloadedError
from runtime.inference.batcher import Batcher
from runtime.inference.classifier import DEFAULT_TOP_K, Answer, Predictions
from runtime.server.admission import BodyBudget, ServerSettings, TokenGuard
from runtime.server.answers import (
    ClassifyAnswer,
    ImageResult,
    ModelAnswer,
    Responses,
    Status,
    described,
    documented,
    overloaded,
    respond,
)
from runtime.server.metrics import CONTENT_TYPE, Metrics
from runtime.server.request_images import FORM_TYPE, RAW_TYPES, BodyReader, NamedImage

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
        "description": "how many classes of each image are answered, at most",
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
    """A route whose endpoint gets the request itself and returns the response.

    FastAPI's own handler resolves dependencies and parameters. Here the signature only describes
    them for OpenAPI, and the endpoint reads them from the request. If a GPU runs the network, the
    server needs about 9 % less processor time for a request: 0.29 ms, not 0.33 ms, measured with
    `python tests/benchmarks/lean_route.py --free-network` on two cores. If the same cores run the
    network, which then takes 2 ms, no difference can be measured.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's documented way to replace its handler ("Custom Request and APIRoute class")."""
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint


def add_classify(
    api: FastAPI, batcher: Batcher, settings: ServerSettings, guard: TokenGuard
) -> None:
    """Adds `POST /v1/classify`.

    Args:
        api: gets the route.
        batcher: answers the images.
        settings: the limits of a request.
        guard: asks for the token.
    """
    budget = BodyBudget(settings.max_memory_bytes)

    async def classify(request: Request) -> Response:
        """Labels one image (the raw body) or many (the files of a multipart form).

        If some of many images are broken, each of them has an `error` and the others have classes.
        """
        guard.check(request)
        top_k = _top_k(request.query_params)
        reader = BodyReader(request, settings, budget)
        try:
            images = await reader.images()
            return respond(await _answer(batcher, images, top_k, settings.timeout_seconds))
        finally:
            reader.release()

    # On the application itself, because the routes of an included router are searched twice.
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
    """Adds health and readiness for everybody, and the model and metrics for those with the token.

    Every route also answers HEAD, with which some monitors ask. FastAPI, unlike Starlette, answers
    HEAD only where it is told to.

    Args:
        api: gets the routes.
        batcher: what they tell about.
        metrics: what `/metrics` shows.
        guard: asks for the token.
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
            return overloaded(str(batcher.refusal()), batcher.drain_seconds)
        return respond(Status(status="ok"))

    @api.head("/v1/model", include_in_schema=False, dependencies=guard.dependencies)
    @api.get(
        "/v1/model",
        dependencies=guard.dependencies,
        responses=described(ModelAnswer, "The model that answers.") | refusals,
    )
    async def model() -> Response:
        """What runs, on what and why, and the card of the model."""
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
        """Requests, batches and the queue, for Prometheus."""
        return Response(metrics.exposition(), media_type=CONTENT_TYPE)


def _top_k(query: QueryParams) -> int:
    """The only parameter of the query. Any other name is refused, because it may be misspelt."""
    if unknown := [name for name in query if name != "top_k"]:
        raise HTTPException(422, f"query: {unknown[0]!r} is unknown; expected top_k or nothing")
    given = query.getlist("top_k")
    if len(given) > 1:
        raise HTTPException(422, f"query: top_k is given {len(given)} times; give it once")
    text = given[0] if given else str(DEFAULT_TOP_K)
    # Python takes digits of other scripts for decimals, and 20 digits are no sensible number.
    if text.isascii() and text.isdecimal() and len(text) <= len(str(_MAX_TOP_K)):
        top_k = int(text)
        if 1 <= top_k <= _MAX_TOP_K:
            return top_k
    raise HTTPException(422, f"query: top_k is {text[:20]!r}; expected an integer from 1")


async def _answer(
    batcher: Batcher, images: list[NamedImage], top_k: int, timeout: float
) -> ClassifyAnswer:
    """The answers of all images, in order.

    Raises:
        ImageError: no image can be decoded.
        OverloadedError: there is no room for the images, or their answers take too long.
    """
    futures = batcher.submit_all(
        [image.content for image in images], top_k=top_k, names=[image.name for image in images]
    )
    try:
        with fail_after(timeout):
            results = [
                _result(image.name, await _predictions_or_error(future))
                for image, future in zip(images, futures, strict=True)
            ]
    except TimeoutError:
        raise OverloadedError(f"not answered within {timeout:g} s; try again later") from None
    finally:
        for future in futures:
            future.cancel()  # nobody waits any longer for images that are not decoded yet
    if all(result.predictions is None for result in results):
        raise ImageError("; ".join(str(result.error) for result in results))
    return ClassifyAnswer(results=results)


async def _predictions_or_error(future: "Future[Predictions]") -> Answer:
    try:
        return await asyncio.wrap_future(future)
    except ImageError as error:
        return error


def _result(name: str, answer: Answer) -> ImageResult:
    if isinstance(answer, ImageError):
        return ImageResult(name=name, error=str(answer))
    return ImageResult(name=name, predictions=answer, warnings=[*answer.warnings] or None)
