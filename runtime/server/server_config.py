"""The settings of uvicorn that all our servers share."""

import logging
from typing import Any

import uvicorn

from runtime.server.bounded_http import BoundedHttpProtocol

# Load balancers keep idle connections for 60 s. If we closed one first, a request on its way would
# be lost.
KEEP_ALIVE_SECONDS = 75.0


def server_config(
    application: Any, *, keep_alive: float = KEEP_ALIVE_SECONDS, **options: Any
) -> uvicorn.Config:
    """The settings of uvicorn that all our servers share.

    Args:
        application: what answers; it must bound the bodies that it reads.
        keep_alive: how many seconds a connection waits for the next request.
        options: further settings of `uvicorn.Config`.
    """
    return uvicorn.Config(
        application,
        http=BoundedHttpProtocol,
        ws="none",  # we have no WebSockets, and a connection of theirs would leave our protocol
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        timeout_keep_alive=keep_alive,  # type: ignore[arg-type]  # it goes to call_later
        **options,
    )
