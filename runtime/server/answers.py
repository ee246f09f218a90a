"""The bodies of all answers, results and errors, and their place in the OpenAPI description."""

import http
import math
from typing import Any, TypeAlias

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Scope

from runtime.base.errors import BackendError, DeviceLostError, OverloadedError, UserError
from runtime.inference.predictions import Prediction
from runtime.model.card import Card, Threshold
from runtime.server.sub_path import path_of

SERVED = "skd_edge.served"  # in the scope: the model that the request asks
V2_PATH = "/v2"
Responses: TypeAlias = dict[int | str, dict[str, Any]]  # of a route, by status
_JSON = "application/json"
_PROBLEM_JSON = "application/problem+json"  # RFC 9457
_REFERENCE = "#/components/schemas/{name}"
_STATUSES = {
    400: "The body is not the form that its content type names.",
    401: "The bearer token is missing or wrong.",
    408: "The body did not arrive in time.",
    413: "The body, or the number of images, is over the limit.",
    415: "The content type is neither an image nor multipart/form-data.",
    422: "No image of the request can be decoded, or `top_k` or `model` is no such value.",
    503: "The queue is full, the server is closing, or it has lost its GPU and must be started "
    "again: try again after `Retry-After` seconds.",
}


class ImageResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer for one image: its classes, or why it cannot be decoded.

    `warnings` are there if something of the image is perhaps not meant as it was read, `accepted`
    if the model's file has a threshold for its answers.
    """

    name: str
    predictions: list[Prediction] | None = None
    accepted: bool | None = None
    error: str | None = None
    warnings: list[str] | None = None


class ClassifyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answers in the order of the images, and the one model that gave all of them.

    `version` counts how often a model of this name has been loaded since the server started.
    """

    results: list[ImageResult]
    model: str
    version: str


class ModelAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What runs, on what and why, and the card of the model; `models` are all names served.

    `threshold` is that of the file or engine that runs; null if it has none, for the reason
    `no_threshold`.
    """

    name: str
    version: str
    backend: str
    precision: str | None
    reason: str
    max_batch: int
    models: list[str]
    threshold: Threshold | None
    no_threshold: str | None
    card: Card


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Whether all is well: `status` is `ok`."""

    status: str


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong, for programs (`status`) and for people (`detail`)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


_DESCRIBED: tuple[type[msgspec.Struct], ...] = (ClassifyAnswer, ModelAnswer, Status, Problem)


def respond(answer: msgspec.Struct) -> Response:
    """A response 200 with the struct as JSON."""
    return Response(msgspec.json.encode(answer), media_type=_JSON)


def described(kind: type[msgspec.Struct], text: str) -> Responses:
    """The `responses` of a route that answers 200 with a body of `kind`.

    `text` says in the OpenAPI description what the body holds.
    """
    schema = {"$ref": _REFERENCE.format(name=kind.__name__)}
    return {200: {"description": text, "content": {_JSON: {"schema": schema}}}}


def component_schemas() -> dict[str, Any]:
    """The JSON schemas of all bodies, by the name of their struct."""
    _, components = msgspec.json.schema_components(_DESCRIBED, ref_template=_REFERENCE)
    return components


class V2Error(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong, as the Open Inference Protocol says it."""

    error: str


def problem(
    scope: Scope, status: int, detail: str, headers: dict[str, str] | None = None
) -> Response:
    """An error in the one form that all errors of a protocol have.

    Below /v2 it is that of the Open Inference Protocol, elsewhere that of RFC 9457.
    """
    content: msgspec.Struct = V2Error(error=detail)
    kind = _JSON
    if not is_v2(scope):
        content = Problem(title=http.HTTPStatus(status).phrase, status=status, detail=detail)
        kind = _PROBLEM_JSON
    return Response(
        msgspec.json.encode(content), status_code=status, headers=headers, media_type=kind
    )


def is_v2(scope: Scope) -> bool:
    """Whether a request speaks the Open Inference Protocol."""
    return f"{path_of(scope)}/".startswith(f"{V2_PATH}/")


def handle_problems(api: FastAPI) -> None:
    """Makes `api` answer every error with a `problem`, ours and the framework's."""
    api.add_exception_handler(UserError, _of_user_error)
    api.add_exception_handler(HTTPException, _of_http_exception)
    api.add_exception_handler(RequestValidationError, _of_validation)
    api.add_exception_handler(Exception, _of_anything)


def documented(*statuses: int) -> Responses:
    """The `responses` of a route that may answer these errors."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": _STATUSES[status], "content": {_PROBLEM_JSON: {"schema": schema}}}
        for status in statuses
    }


def overloaded(scope: Scope, detail: str, drain_seconds: float) -> Response:
    """A response 503 that says after how many seconds a new attempt makes sense."""
    return problem(scope, 503, detail, {"Retry-After": str(max(1, math.ceil(drain_seconds)))})


async def _of_user_error(request: Request, error: Exception) -> Response:
    scope = request.scope
    if not isinstance(error, BackendError):
        # 422 is of WebDAV; clients of the Open Inference Protocol expect 400 for such requests.
        return problem(scope, 400 if is_v2(scope) else 422, str(error))
    batcher = scope.get(SERVED, request.app.state.models.default).current.batcher
    if isinstance(error, OverloadedError) or not batcher.running:
        # What CUDA says may name this machine and its files. The log has it.
        told = batcher.refusal() if isinstance(error, DeviceLostError) else error
        return overloaded(scope, str(told), batcher.drain_seconds)
    # The network failed. A second attempt would fail too, and the log must have the reason.
    raise error


async def _of_http_exception(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    headers = dict(error.headers or {})
    return problem(request.scope, error.status_code, str(error.detail), headers)


async def _of_validation(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    where = " ".join(map(str, first["loc"]))
    return problem(request.scope, 422, f"{where}: {first['msg']}")


async def _of_anything(request: Request, _error: Exception) -> Response:
    # Starlette logs the trace and raises the error again. The client learns nothing of our code.
    return problem(
        request.scope,
        500,
        "the server failed to answer; its log has the reason",
        {"Connection": "close"},  # as uvicorn does
    )
