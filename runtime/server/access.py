"""The optional bearer token."""

import hmac
from typing import Annotated

from fastapi import Depends
from fastapi import params as parameters
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

_bearer = HTTPBearer(auto_error=False, description="The token that the server was started with.")


def token_guard(token: str | None) -> list[parameters.Depends]:
    """Dependencies of a route: 401 unless the request carries `token`; none without a token."""
    if token is None:
        return []
    expected = token.encode()

    async def check(
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    ) -> None:
        # Headers are bytes that Starlette reads as Latin-1; tokens are UTF-8.
        received = credentials.credentials.encode("latin-1") if credentials else b""
        # In constant time, so that the answer's delay does not tell how much was right.
        if not hmac.compare_digest(received, expected):
            raise HTTPException(
                401,
                "a bearer token is needed: `Authorization: Bearer TOKEN`",
                headers={"WWW-Authenticate": "Bearer"},
            )

    return [Depends(check)]
