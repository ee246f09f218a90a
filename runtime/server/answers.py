"""The bodies of successful answers, and their place in the OpenAPI description."""

from typing import Any

import msgspec
from fastapi import Response

from runtime.inference.classifier import Prediction
from runtime.model.card import Card
from runtime.server.problems import Problem, Responses

JSON = "application/json"
_REFERENCE = "#/components/schemas/{name}"


class ImageResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer for one image: its classes, or why it cannot be decoded."""

    name: str
    predictions: list[Prediction] | None = None
    error: str | None = None


class ClassifyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answers in the order of the images."""

    results: list[ImageResult]


class ModelAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What runs, where, why, and what it says about itself."""

    backend: str
    precision: str | None
    reason: str
    max_batch: int
    card: Card


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """`ok`."""

    status: str


_DESCRIBED: tuple[type[msgspec.Struct], ...] = (ClassifyAnswer, ModelAnswer, Status, Problem)


def respond(answer: msgspec.Struct) -> Response:
    """A struct as a JSON response."""
    return Response(msgspec.json.encode(answer), media_type=JSON)


def described(kind: type[msgspec.Struct], text: str) -> Responses:
    """The `responses` entry of a 200 with a body of `kind`."""
    schema = {"$ref": _REFERENCE.format(name=kind.__name__)}
    return {200: {"description": text, "content": {JSON: {"schema": schema}}}}


def component_schemas() -> dict[str, Any]:
    """JSON schemas of all bodies, by name."""
    _, components = msgspec.json.schema_components(_DESCRIBED, ref_template=_REFERENCE)
    return components
