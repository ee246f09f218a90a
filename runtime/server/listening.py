"""What a command of ours needs before it serves: a listening socket, and the token by environment.

It imports no framework, so that a wrong argument is refused at once.
"""

import contextlib
import gc
import ipaddress
import os
import socket

from runtime.base.errors import UserError

TOKEN_VARIABLE = "SKD_EDGE_TOKEN"
_BACKLOG = 2048
_LAST_PORT = 65535
# New objects before a search for garbage among them: 20,000 take about 4 MB. Then, how many such
# searches before one among older objects.
_NEW_OBJECTS, _YOUNG, _MIDDLE = 20_000, 20, 20


def bearer_token() -> str | None:
    """The token that programs must send; None, which asks for none, if the variable is not set.

    Raises:
        UserError: it is set to nothing, as by a script whose own variable has no value.
    """
    token = os.environ.get(TOKEN_VARIABLE)
    if token is not None and not token.strip():
        raise UserError(
            f"received an empty {TOKEN_VARIABLE}, expected a token; set it to the token, or unset "
            "it to ask for none"
        )
    return token and token.strip()


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 takes any free one.

    Raises:
        UserError: the address cannot be had.
    """
    if not 0 <= port <= _LAST_PORT:  # getaddrinfo would wrap it
        raise UserError(f"port {port} is out of range; choose 0 to {_LAST_PORT} with --port")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        with contextlib.ExitStack() as failed:
            listener = failed.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Every connection inherits this. Without it, the second of two small writes would wait
            # 40 ms for the acknowledgement of the first.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
            failed.pop_all()
    except (OSError, UnicodeError) as error:  # UnicodeError: no host can have such a name
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"cannot listen on {host} port {port} ({reason}); "
            "choose another with --host or --port (0: any free one)"
        ) from error
    return listener


def http_address(listener: socket.socket) -> str:
    """The address of the listener as a browser takes it, such as http://127.0.0.1:8000."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"


def is_open_to_others(listener: socket.socket) -> bool:
    """Whether other machines may reach the listener."""
    return not ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def freeze_loaded() -> None:
    """Leaves all that is loaded by now out of Python's searches for garbage, and makes them rarer.

    The modules of a server are 100,000s of objects that live as long as it does. A search among
    them stopped all threads for 90 ms, about once a second at full load. By default a search starts
    after 700 new objects, and a hundred images that wait have more.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, _YOUNG, _MIDDLE)
