"""The routes below /v2: the Open Inference Protocol, which clients of Triton and KServe speak."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec
import numpy as np
from fastapi import FastAPI, Request, Response
from numpy.typing import NDArray
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from runtime.base.command import VERSION
from runtime.base.errors import ImageError
from runtime.inference.batcher import Batcher
from runtime.inference.pending_image import FutureAnswer
from runtime.server.admission import MODELS_PATH, BodyBudget, ServerSettings, TokenGuard
from runtime.server.answers import V2_PATH, overloaded, respond
from runtime.server.request_images import BodyReader
from runtime.server.routes import LeanRoute, answers_of, submit
from runtime.server.served_models import ServedModel, ServedModels
from runtime.server.status_routes import lost_batcher, refused_batcher
from runtime.server.v2_answers import Wanted, answer_with, wanted_of
from runtime.server.v2_description import (
    BODY,
    HEADER_PARAMETER,
    name_parameter,
    v2_responses,
    version_parameter,
)
from runtime.server.v2_messages import (
    EXTENSIONS,
    V2Answer,
    V2Live,
    V2Model,
    V2ModelReady,
    V2Ready,
    V2Server,
    metadata,
)
from runtime.server.v2_tensors import decompressed, images_in, pictures_in, read_request

Endpoint = Callable[[Request], Awaitable[Response]]
_MODEL = MODELS_PATH + "{name}"
_VERSION = "/versions/{version}"
_MOST_DIGITS = 9
_LARGE = 256 << 10  # bytes of a body that is read beside the event loop: it takes over 2 ms
Read = TypeVar("Read")


def add_v2(
    api: FastAPI,
    models: ServedModels,
    settings: ServerSettings,
    guard: TokenGuard,
    budget: BodyBudget,
) -> None:
    """Adds the routes of the protocol. Health is for everybody, the rest for those with the token.

    Args:
        api: gets the routes.
        models: each is served by two names, NAME and NAME-encoded.
        settings: the limits of a request.
        guard: asks for the token.
        budget: counts the bytes of all bodies.
    """
    asked = _Asked(models, settings, guard, budget)

    def add(path: str, endpoint: Endpoint, answer: type[msgspec.Struct], *statuses: int) -> None:
        infers = answer is V2Answer
        parameters = [name_parameter(models)] if "{name}" in path else []
        parameters += [version_parameter()] if "{version}" in path else []
        parameters += [HEADER_PARAMETER] if infers else []
        extra: dict[str, Any] = {"parameters": parameters} if parameters else {}
        api.router.add_api_route(
            path,
            endpoint,
            methods=["POST" if infers else "GET"],
            route_class_override=LeanRoute,
            operation_id=f"{endpoint.__name__}{'_of_version' if '{version}' in path else ''}",
            dependencies=() if path.startswith(f"{V2_PATH}/health") else guard.dependencies,
            responses=v2_responses(answer, *statuses),
            openapi_extra=extra | BODY if infers else extra,
        )
        if not infers:
            api.router.add_route(path, endpoint, methods=["HEAD"], include_in_schema=False)

    known = (*guard.statuses, 404)
    # The framework compares a path with every route in turn, so what is asked most comes first.
    for path in (_MODEL, _MODEL + _VERSION):
        add(f"{path}/infer", asked.v2_infer, V2Answer, 400, *known, 408, 413, 415, 503)
    for path in (_MODEL, _MODEL + _VERSION):
        add(path, asked.v2_model, V2Model, *known)
        add(f"{path}/ready", asked.v2_model_ready, V2ModelReady, *known, 503)
    add(V2_PATH, asked.v2_server, V2Server, *guard.statuses)
    add(f"{V2_PATH}/health/live", asked.v2_live, V2Live, 503)
    add(f"{V2_PATH}/health/ready", asked.v2_ready, V2Ready, 503)


@dataclass(frozen=True)
class _Taken:
    """What was read of a request: what it wants, and what hands its images to a batcher."""

    request_id: str | None
    wanted: Wanted
    ask: Callable[[Batcher], list[FutureAnswer]]


class _Asked:
    """The endpoints, over what they share."""

    def __init__(
        self,
        models: ServedModels,
        settings: ServerSettings,
        guard: TokenGuard,
        budget: BodyBudget,
    ) -> None:
        self._models = models
        self._settings = settings
        self._guard = guard
        self._budget = budget
        # One body at a time, in their order. More threads would take turns with the event loop.
        self._reading = ThreadPoolExecutor(1, "v2-bodies")

    async def v2_server(self, request: Request) -> Response:
        """What serves, and which extensions of the protocol it knows."""
        self._guard.check(request)
        return respond(V2Server(name="skd-edge", version=VERSION, extensions=list(EXTENSIONS)))

    async def v2_live(self, request: Request) -> Response:
        """Whether the process lives. 503: it must be started again, since it has lost its GPU."""
        if (lost := lost_batcher(self._models)) is not None:
            return overloaded(request.scope, str(lost.refusal()), 0)
        return respond(V2Live(live=True))

    async def v2_ready(self, request: Request) -> Response:
        """Whether every model accepts images now."""
        if (refused := refused_batcher(self._models)) is not None:
            return overloaded(request.scope, str(refused.refusal()), refused.drain_seconds)
        return respond(V2Ready(ready=True))

    async def v2_model(self, request: Request) -> Response:
        """What a model takes and gives."""
        self._guard.check(request)
        served, encoded = self._model(request)
        current = served.current
        name = request.path_params["name"]
        classifier = current.batcher.classifier
        return respond(metadata(classifier, name, current.version, encoded=encoded))

    async def v2_model_ready(self, request: Request) -> Response:
        """Whether a model accepts images now."""
        self._guard.check(request)
        served, _ = self._model(request)
        batcher = served.current.batcher
        if not batcher.running:
            return overloaded(request.scope, str(batcher.refusal()), batcher.drain_seconds)
        return respond(V2ModelReady(name=request.path_params["name"], ready=True))

    async def v2_infer(self, request: Request) -> Response:
        """The probabilities of all classes for each image, or the most probable classes."""
        self._guard.check(request)
        served, encoded = self._model(request)
        reader = BodyReader(request, self._settings, self._budget)
        try:
            body = await reader.whole()
            most = self._settings.max_body_bytes
            if "content-encoding" in request.headers:  # a small body may become a large one
                packed = body
                body = await self._beside(partial(decompressed, body, request.headers, most=most))
                if body is not packed:
                    reader.count(len(body))
            read = partial(self._read, body, request.headers, served, encoded=encoded)
            taken = await self._beside(read) if len(body) > _LARGE else read()
            return await self._answer(request, served, taken)
        finally:
            reader.release()

    async def _beside(self, work: Callable[[], Read]) -> Read:
        """What `work` returns in a thread, while the event loop goes on with other requests."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, work)

    def _read(
        self, body: bytes, headers: Headers, served: ServedModel, *, encoded: bool
    ) -> "_Taken":
        """What a body asks for."""
        size = served.current.batcher.classifier.session.input_size
        asked, binary = read_request(body, headers, size=size, encoded=encoded)
        wanted = wanted_of(asked)
        most = self._settings.max_images
        if encoded:
            pictures = pictures_in(asked, binary, most=most)
            names = [f"picture {place}" for place in range(len(pictures))]
            return _Taken(
                asked.id,
                wanted,
                lambda batcher: batcher.submit_all(pictures, top_k=1, names=names),
            )
        images = images_in(asked, binary, size=size, most=most)
        return _Taken(asked.id, wanted, lambda batcher: batcher.submit_prepared(images, top_k=1))

    async def _answer(self, request: Request, served: ServedModel, taken: "_Taken") -> Response:
        current, futures = submit(served, taken.ask)
        wanted = taken.wanted
        limit = self._settings.timeout_seconds
        answers = await answers_of(served, futures, min(limit, wanted.timeout or limit))
        if broken := [str(answer) for answer in answers if isinstance(answer, ImageError)]:
            raise ImageError("; ".join(broken))
        return answer_with(
            _stacked([future.probabilities for future in futures]),
            current.batcher.classifier.card.class_names,
            wanted,
            name=request.path_params["name"],
            version=current.version,
            request_id=taken.request_id,
            warnings=[words for answer in answers for words in getattr(answer, "warnings", ())],
            accepted=[getattr(answer, "accepted", None) for answer in answers],
        )

    def _model(self, request: Request) -> tuple[ServedModel, bool]:
        """The model that the path names, and whether it takes encoded pictures.

        Every version up to the present one is answered by the present one, so that a reload refuses
        nobody who names a version.
        """
        name = request.path_params["name"]
        found = self._models.v2_model(name)
        if found is None:
            names = ", ".join(self._models.v2_names)
            raise HTTPException(404, f"model {name[:100]!r} is unknown; served here: {names}")
        version, now = request.path_params.get("version", "1"), found[0].current.version
        plain = version.isascii() and version.isdecimal() and len(version) <= _MOST_DIGITS
        if not plain or not 1 <= int(version) <= int(now):
            raise HTTPException(404, f"model {name} has no version {version[:20]!r}, but {now}")
        return found


def _stacked(rows: list[NDArray[np.float32] | None]) -> NDArray[np.float32]:
    """The rows as one array; a single one, which most requests have, is not copied."""
    if len(rows) == 1 and rows[0] is not None:
        return rows[0][None]
    return np.array(rows, np.float32)
