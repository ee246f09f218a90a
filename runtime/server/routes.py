"""The route `/v1/classify`: from a request to the answers of its images."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from runtime.base.errors import BackendError, ImageError, OverloadedError
from runtime.inference.batcher import Batcher
from runtime.inference.classifier import DEFAULT_TOP_K
from runtime.inference.pending_image import FutureAnswer
from runtime.inference.predictions import Answer
from runtime.server.admission import CLASSIFY_PATH, BodyBudget, ServerSettings, TokenGuard
from runtime.server.answers import (
    ClassifyAnswer,
    ImageResult,
    described,
    documented,
    respond,
)
from runtime.server.multipart_form import NamedImage
from runtime.server.request_images import FORM_TYPE, RAW_TYPES, BodyReader
from runtime.server.served_models import Running, ServedModel, ServedModels

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
_TOP_K = {
    "name": "top_k",
    "in": "query",
    "description": "how many classes of each image are answered, at most",
    "schema": {"type": "integer", "minimum": 1, "maximum": _MAX_TOP_K, "default": DEFAULT_TOP_K},
}


class LeanRoute(APIRoute):
    """A route whose endpoint gets the request itself and returns the response.

    FastAPI's own handler resolves dependencies and parameters, and opens two stacks for what they
    must close. Here the signature only describes them for OpenAPI, and the endpoint reads them from
    the request. `python tests/benchmarks/lean_route.py` measures what that saves.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """A route as `APIRoute` makes it, with an application of its own in the place of `app`."""
        super().__init__(path, endpoint, **options)
        self.app = _answering(endpoint)


def _answering(endpoint: Callable[[Request], Coroutine[Any, Any, Response]]) -> ASGIApp:
    """The application that sends what `endpoint` returns; its errors go to the handlers."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await endpoint(Request(scope, receive, send))
        await response(scope, receive, send)

    return app


def add_classify(
    api: FastAPI,
    models: ServedModels,
    settings: ServerSettings,
    guard: TokenGuard,
    budget: BodyBudget,
) -> None:
    """Adds `POST /v1/classify`.

    Args:
        api: gets the route.
        models: answer the images.
        settings: the limits of a request.
        guard: asks for the token.
        budget: counts the bytes of all bodies.
    """

    async def classify(request: Request) -> Response:
        """Labels one image (the raw body) or many (the files of a multipart form).

        If some of many images are broken, each of them has an `error` and the others have classes.
        """
        guard.check(request)
        top_k, served = _query(request.query_params, models)
        reader = BodyReader(request, settings, budget)
        try:
            images = await reader.images()
            return respond(await _answer(served, images, top_k, settings.timeout_seconds))
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
        openapi_extra={"requestBody": _BODY, "parameters": [_TOP_K, model_parameter(models)]},
    )


def model_parameter(models: ServedModels) -> dict[str, Any]:
    """The description of `?model=`."""
    return {
        "name": "model",
        "in": "query",
        "description": "which model of the server",
        "schema": {"type": "string", "enum": models.names, "default": models.default.name},
    }


def _query(query: QueryParams, models: ServedModels) -> tuple[int, ServedModel]:
    """`top_k`, and the model that is asked. Other names are refused: they may be misspelt."""
    if unknown := [name for name in query if name not in ("top_k", "model")]:
        raise HTTPException(
            422, f"query: {unknown[0]!r} is unknown; expected top_k, model or nothing"
        )
    text = _once(query, "top_k", str(DEFAULT_TOP_K))
    # Python takes digits of other scripts for decimals, and 20 digits are no sensible number.
    if text.isascii() and text.isdecimal() and len(text) <= len(str(_MAX_TOP_K)):
        top_k = int(text)
        if 1 <= top_k <= _MAX_TOP_K:
            return top_k, named_model(query, models)
    raise HTTPException(422, f"query: top_k is {text[:20]!r}; expected an integer from 1")


def named_model(query: QueryParams, models: ServedModels) -> ServedModel:
    """The model that the query names; the first if it names none."""
    name = _once(query, "model", models.default.name)
    if (served := models.by_name.get(name)) is not None:
        return served
    names = ", ".join(models.by_name)
    raise HTTPException(422, f"query: model {name[:100]!r} is unknown; served here: {names}")


def _once(query: QueryParams, name: str, default: str) -> str:
    given = query.getlist(name)
    if len(given) > 1:
        raise HTTPException(422, f"query: {name} is given {len(given)} times; give it once")
    return given[0] if given else default


def submit(
    served: ServedModel, ask: Callable[[Batcher], list[FutureAnswer]]
) -> tuple[Running, list[FutureAnswer]]:
    """Hands images to what answers now, and says what that was.

    `ask` submits to the batcher that it is given. It is called again if a successor took the place
    of that batcher meanwhile, so that no reload refuses a request.
    """
    while True:
        current = served.current
        try:
            return current, ask(current.batcher)
        except BackendError:
            if current is served.current:
                raise


async def answers_of(
    served: ServedModel, futures: list[FutureAnswer], timeout: float
) -> list[Answer]:
    """The answers of all images, in order, or the errors of those that cannot be decoded.

    Counts for `served` the answers that are not accepted.

    Raises:
        OverloadedError: they take longer than `timeout` seconds.
    """
    try:
        if not await _all_done(futures, timeout):
            raise OverloadedError(f"not answered within {timeout:g} s; try again later")
        answers = [_answer_or_error(future) for future in futures]
    finally:
        for future in futures:
            future.unwanted = True  # large ones that have begun may have been put aside
            future.cancel()  # nobody waits any longer for images that are not decoded yet
    served.refusals += [getattr(answer, "accepted", None) for answer in answers].count(False)
    return answers


async def _all_done(futures: list[FutureAnswer], timeout: float) -> bool:
    """Waits until all futures are done; False if that takes longer than `timeout` seconds.

    The event loop wakes once for all of them. asyncio's own way to wait takes a future, three
    callbacks and a cancel scope for each of them, which were a fifth of the loop's time.
    """
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[bool] = loop.create_future()
    done = itertools.count(1)  # several threads call `count_one`, and this counts for all of them
    number = len(futures)  # the callback keeps this and not the futures, which keep the callback

    def wake(in_time: bool) -> None:
        if not woken.done():
            woken.set_result(in_time)

    def count_one(_: object) -> None:
        if next(done) == number and not loop.is_closed():
            loop.call_soon_threadsafe(wake, True)

    for future in futures:
        future.add_done_callback(count_one)
    timer = loop.call_later(timeout, wake, False)
    try:
        return await woken
    finally:
        timer.cancel()


def _answer_or_error(future: FutureAnswer) -> Answer:
    error = future.exception()
    return error if isinstance(error, ImageError) else future.result()


async def _answer(
    served: ServedModel, images: list[NamedImage], top_k: int, timeout: float
) -> ClassifyAnswer:
    """The answers of all images, in order.

    Raises:
        ImageError: no image can be decoded.
        OverloadedError: there is no room for the images, or their answers take too long.
    """
    contents, names = [image.content for image in images], [image.name for image in images]
    current, futures = submit(
        served, lambda batcher: batcher.submit_all(contents, top_k=top_k, names=names)
    )
    answers = await answers_of(served, futures, timeout)
    if all(isinstance(answer, ImageError) for answer in answers):
        raise ImageError("; ".join(map(str, answers)))
    results = [_result(name, answer) for name, answer in zip(names, answers, strict=True)]
    return ClassifyAnswer(results=results, model=served.name, version=current.version)


def _result(name: str, answer: Answer) -> ImageResult:
    if isinstance(answer, ImageError):
        return ImageResult(name=name, error=str(answer))
    return ImageResult(
        name=name,
        predictions=answer,
        accepted=answer.accepted,
        warnings=[*answer.warnings] or None,
    )
