"""The optional bearer token."""

import hmac
from collections.abc import Sequence

from fastapi import Depends, Request
from fastapi import params as parameters
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

_bearer = HTTPBearer(auto_error=False, description="The token that the server was started with.")


class TokenGuard:
    """Asks for a token, or for nothing if there is none.

    Attributes:
        dependencies: of a FastAPI route that is guarded.
        statuses: what such a route may answer besides.
    """

    def __init__(self, token: str | None) -> None:
        self._expected = None if token is None else token.encode()
        self.dependencies: Sequence[parameters.Depends] = ()
        self.statuses: tuple[int, ...] = ()
        if token is not None:
            self.dependencies = [Depends(_bearer), Depends(self.check)]
            self.statuses = (401,)

    def check(self, request: Request) -> None:
        """HTTPException 401 unless the request carries the token."""
        if self._expected is None:
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        # Headers are bytes that Starlette reads as Latin-1; tokens are UTF-8. Compared in constant
        # time, so that the answer's delay does not tell how much was right.
        right = hmac.compare_digest(token.strip().encode("latin-1"), self._expected)
        if not right or scheme.lower() != "bearer":
            raise HTTPException(
                401,
                "a bearer token is needed: `Authorization: Bearer TOKEN`",
                headers={"WWW-Authenticate": "Bearer"},
            )
