"""The one form of every error: `application/problem+json` of RFC 9457."""

import http
import math
from typing import Any, TypeAlias

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from runtime.base.errors import BackendError, OverloadedError, UserError

Responses: TypeAlias = dict[int | str, dict[str, Any]]  # of a route, by status
MEDIA_TYPE = "application/problem+json"
STATUSES = {
    400: "The body is not the form that its content type names.",
    401: "The bearer token is missing or wrong.",
    408: "The body did not arrive in time.",
    413: "The body, or the number of images, is over the limit.",
    415: "The content type is neither an image nor multipart/form-data.",
    422: "No image of the request can be decoded, or `top_k` is not a positive number.",
    503: "The queue is full or the server is closing: try again after `Retry-After` seconds.",
}


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong, for programs (`status`) and for people (`detail`)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """A response in the one form of errors."""
    content = Problem(title=http.HTTPStatus(status).phrase, status=status, detail=detail)
    return Response(
        msgspec.json.encode(content), status_code=status, headers=headers, media_type=MEDIA_TYPE
    )


def handle_problems(api: FastAPI) -> None:
    """Makes every error of `api`, ours and the framework's, a problem."""
    api.add_exception_handler(UserError, _of_user_error)
    api.add_exception_handler(HTTPException, _of_http_exception)
    api.add_exception_handler(RequestValidationError, _of_validation)
    api.add_exception_handler(Exception, _of_anything)


def documented(*statuses: int) -> Responses:
    """The `responses` of a route for the OpenAPI description."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": STATUSES[status], "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


def overloaded(detail: str, drain_seconds: float) -> Response:
    """A 503 that says when a new attempt makes sense."""
    return problem(503, detail, {"Retry-After": str(max(1, math.ceil(drain_seconds)))})


async def _of_user_error(request: Request, error: Exception) -> Response:
    batcher = request.app.state.batcher
    if not isinstance(error, BackendError):
        return problem(422, str(error))
    if isinstance(error, OverloadedError) or not batcher.running:
        return overloaded(str(error), batcher.drain_seconds)
    raise error  # the network failed: no second attempt mends that, and the log must have it


async def _of_http_exception(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return problem(error.status_code, str(error.detail), dict(error.headers or {}))


async def _of_validation(_: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    where = " ".join(map(str, first["loc"]))
    return problem(422, f"{where}: {first['msg']}")


async def _of_anything(_request: Request, _error: Exception) -> Response:
    # Starlette logs the trace and raises on; the client learns nothing of our insides.
    return problem(
        500,
        "the server failed to answer; its log has the reason",
        {"Connection": "close"},  # as uvicorn does
    )
