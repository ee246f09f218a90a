"""Refusing what there is no room for, before anything else is done with it."""

from starlette.types import ASGIApp, Receive, Scope, Send

from runtime.base.errors import BackendError
from runtime.inference.batcher import Batcher
from runtime.server.problems import overloaded


class Admission:
    """ASGI middleware that answers 503 to one path while the batcher is full or closed.

    At four times the load that can be answered, three of four requests end here: going through the
    framework, they would cost more time than those that are answered.
    """

    def __init__(self, app: ASGIApp, *, batcher: Batcher, path: str) -> None:
        self.app = app
        self._batcher = batcher
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].endswith(self._path):
            try:
                self._batcher.require_room(1)
            except BackendError as error:
                refusal = overloaded(str(error), self._batcher.drain_seconds)
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)
