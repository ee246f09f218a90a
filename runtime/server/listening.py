"""The socket that a server of ours listens on."""

import contextlib
import socket

from runtime.base.errors import UserError

_BACKLOG = 2048
_LAST_PORT = 65535


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 is any free one. UserError if it cannot be had."""
    if not 0 <= port <= _LAST_PORT:  # getaddrinfo would wrap it
        raise UserError(f"port {port} is out of range; choose 0 to {_LAST_PORT} with --port")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        with contextlib.ExitStack() as failed:
            listener = failed.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Inherited by every connection: an answer's head and body are two small writes, and
            # the second would wait 40 ms for the first's acknowledgement.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
            failed.pop_all()
    except (OSError, UnicodeError) as error:  # UnicodeError: no host has such a name
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"cannot listen on {host} port {port} ({reason}); "
            "choose another with --host or --port (0: any free one)"
        ) from error
    return listener
