"""How the routes below /v2 are described in OpenAPI."""

from typing import Any

import msgspec

from runtime.server.answers import Responses, V2Error
from runtime.server.served_models import ServedModels
from runtime.server.v2_messages import V2Answer, V2Request

_STATUSES = {
    400: "The request is not one of the protocol, or a picture cannot be decoded.",
    401: "The bearer token is missing or wrong.",
    404: "There is no such model, or no such version of it.",
    408: "The body did not arrive in time.",
    413: "The body, or the number of images, is over the limit.",
    415: "The content encoding is neither gzip nor deflate.",
    503: "The queue is full, the server is closing, or it has lost its GPU and must be started "
    "again: try again after `Retry-After` seconds.",
}
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_HEADER = {
    "name": "Inference-Header-Content-Length",
    "description": "how many bytes of JSON precede the bytes of the tensors; 0: the body is the "
    "input itself; without this header the body is JSON",
}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": f"#/components/schemas/{V2Request.__name__}"}},
            **_BINARY,
        },
    }
}
HEADER_PARAMETER = {**_HEADER, "in": "header", "schema": {"type": "integer", "minimum": 0}}


def v2_responses(answer: type[msgspec.Struct], *statuses: int) -> Responses:
    """The `responses` of a route that answers 200 with `answer`, or these errors."""
    return {
        200: {"description": (answer.__doc__ or "").partition("\n")[0], "content": _json(answer)}
        | ({"content": _json(answer) | _BINARY} if answer is V2Answer else {}),
        **{
            status: {"description": _STATUSES[status], "content": _json(V2Error)}
            for status in statuses
        },
    }


def name_parameter(models: ServedModels) -> dict[str, Any]:
    """The name in a path: each model has two."""
    return {
        "name": "name",
        "in": "path",
        "required": True,
        "description": "NAME takes arrays, NAME-encoded takes encoded pictures",
        "schema": {"type": "string", "enum": models.v2_names},
    }


def version_parameter() -> dict[str, Any]:
    """The version in a path."""
    return {
        "name": "version",
        "in": "path",
        "required": True,
        "description": "1, or a later one up to the version that answers now",
        "schema": {"type": "string", "pattern": "^[1-9][0-9]*$"},
    }


def _json(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}
