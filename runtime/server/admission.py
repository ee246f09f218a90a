"""What the server lets in: its limits, the bearer token, and room for one more request."""

import hmac
from collections.abc import Sequence
from urllib.parse import parse_qsl

import msgspec
from fastapi import Depends, Request
from fastapi import params as parameters
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from runtime.base.errors import BackendError, OverloadedError
from runtime.server.answers import SERVED, overloaded
from runtime.server.served_models import ServedModel, ServedModels

CLASSIFY_PATH = "/v1/classify"
MODELS_PATH = "/v2/models/"
MEMORY_BYTES = 256 << 20
_bearer = HTTPBearer(auto_error=False, description="The token that the server was started with.")


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one request and of all requests together, and the token.

    Attributes:
        max_body_bytes: of one request.
        max_images: in one request.
        max_memory_bytes: of all bodies together that are being received or answered.
        timeout_seconds: to receive a request, and again to answer it.
        token: what a request must carry; None: everybody who can connect is answered.
    """

    max_body_bytes: int = 32 << 20
    max_images: int = 32
    max_memory_bytes: int = MEMORY_BYTES
    timeout_seconds: float = 30.0
    token: str | None = None


class BodyBudget:
    """Counts the bytes of all bodies together, so that many large requests cannot fill the memory.

    Attributes:
        limit: the most bytes that may be in use at one time.
        used: the bytes that are in use now.
    """

    def __init__(self, limit: int) -> None:
        """Allows `limit` bytes at one time."""
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> None:
        """Reserves `size` bytes.

        Raises:
            OverloadedError: the other requests leave too few.
        """
        if self.used + size > self.limit:
            raise OverloadedError(f"requests of {self.used} bytes are being answered; try again")
        self.used += size

    def give_back(self, size: int) -> None:
        """Makes `size` bytes free for other requests."""
        self.used -= size


class TokenGuard:
    """Asks for a token, or for nothing if there is none.

    Attributes:
        dependencies: of every FastAPI route that is guarded.
        statuses: what such a route may answer in addition to its own statuses.
    """

    def __init__(self, token: str | None) -> None:
        """Asks for `token`; None: for nothing."""
        self._expected = None if token is None else token.encode()
        self.dependencies: Sequence[parameters.Depends] = ()
        self.statuses: tuple[int, ...] = ()
        if token is not None:
            self.dependencies = [Depends(_bearer), Depends(self.check)]
            self.statuses = (401,)

    def check(self, request: Request) -> None:
        """Lets the request pass if it carries the token (RFC 6750, section 2.1).

        Raises:
            HTTPException: with status 401, if it does not.
        """
        if self._expected is None:
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        # Starlette reads the bytes of headers as Latin-1, and tokens are UTF-8. The comparison
        # always takes the same time, so that the time does not tell how much of a token was right.
        right = hmac.compare_digest(token.strip().encode("latin-1"), self._expected)
        if not right or scheme.lower() != "bearer":
            raise HTTPException(
                401,
                "a bearer token is needed: `Authorization: Bearer TOKEN`",
                headers={"WWW-Authenticate": "Bearer"},
            )


class RoomGuard:
    """ASGI middleware that answers 503 to an inference while the model's batcher is full or closed.

    It stands before the framework, because refusals must cost little. At four times the load that
    can be answered, three of four requests are refused. If they went through the framework, they
    would take more time than the requests that are answered.
    """

    def __init__(self, app: ASGIApp, *, models: ServedModels) -> None:
        """Guards `app`.

        Args:
            app: the application behind this one.
            models: one of them must have room for one more image.
        """
        self.app = app
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers the request with 503, or hands it to the application."""
        served = self._asked(scope) if scope["type"] == "http" else None
        while served is not None:
            scope[SERVED] = served
            current = served.current
            try:
                current.batcher.require_room(1)
            except BackendError as error:
                if current is not served.current:
                    continue  # its successor has just taken its place
                refusal = overloaded(scope, str(error), current.batcher.drain_seconds)
                await refusal(scope, receive, send)
                return
            break
        await self.app(scope, receive, send)

    def _asked(self, scope: Scope) -> ServedModel | None:
        """The model that a request asks; None if it asks none, or one that is not here."""
        path: str = scope["path"]
        if path.endswith(CLASSIFY_PATH):
            if b"model=" not in scope["query_string"]:
                return self._models.default
            names = dict(parse_qsl(scope["query_string"].decode("latin-1")))
            return self._models.by_name.get(names.get("model", ""))
        if is_inference(path):
            name = path.rpartition(MODELS_PATH)[2].partition("/")[0]
            found = self._models.v2_model(name)
            return found[0] if found else None
        return None


def is_inference(path: str) -> bool:
    """Whether requests to this path are answered by a network."""
    return path.endswith(CLASSIFY_PATH) or (path.endswith("/infer") and MODELS_PATH in path)
