"""An application below a path of a host name, such as https://example.org/skd: behind a proxy."""

import argparse
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]  # the types of ASGI, without a framework
Headers = list[tuple[bytes, bytes]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*/?")
_HEADER = b"x-forwarded-prefix"


def root_path(text: str) -> str:
    """The path below which the server lies, without a last slash, as the `type` of an option.

    Raises:
        argparse.ArgumentTypeError: `text` is no path of plain characters.
    """
    if not _is_prefix(text):
        raise argparse.ArgumentTypeError(
            f"received {text!r}, expected a path such as /skd, of letters, digits and . _ ~ -"
        )
    return text.rstrip("/")


def add_proxy_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--root-path` and `--trust-forwarded-prefix`."""
    parser.add_argument(
        "--root-path",
        type=root_path,
        default="/",  # argparse makes "" of it, as of every text
        metavar="PATH",
        help="the path below which a proxy shows the server, such as /skd; whether or not the "
        "proxy cuts it off",
    )
    parser.add_argument(
        "--trust-forwarded-prefix",
        action="store_true",
        help="take that path from the header X-Forwarded-Prefix, which the proxy must set",
    )


class SubPath:
    """ASGI middleware that tells the application below which path it lies.

    Proxies either cut that path off (`proxy_pass http://host:8000/;`) or leave it. Both are right.
    """

    def __init__(self, app: Application, *, root: str, trust_header: bool = False) -> None:
        """Stands before `app`.

        Args:
            app: the application.
            root: the path, without a last slash; empty: the root of the host name.
            trust_header: whether X-Forwarded-Prefix of a request is believed before `root`.
        """
        self.app = app
        self._root = root
        self._trust_header = trust_header

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands the request over with its `root_path`, and a path that begins with it."""
        if scope["type"] == "http" and (root := self._root_of(scope)):
            scope = {**scope, "root_path": root, "path": _below(root, scope["path"])}
            if scope.get("raw_path") is not None:
                raw = scope["raw_path"].decode("latin-1")
                scope["raw_path"] = _below(root, raw).encode("latin-1")
            if self._trust_header:
                scope["headers"] = _for_visitors(scope["headers"])
        await self.app(scope, receive, send)

    def _root_of(self, scope: Scope) -> str:
        if self._trust_header:
            for name, value in scope["headers"]:
                if name == _HEADER:
                    text = value.decode("latin-1").partition(",")[0].strip()
                    return text.rstrip("/") if _is_prefix(text) else self._root
        return self._root


def path_of(scope: Scope) -> str:
    """The path of a request below the root of the application."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _for_visitors(headers: Headers) -> Headers:
    """The headers with the host that visitors named, if the proxy says which it was.

    Gradio makes addresses of X-Forwarded-Host without our path, and of Host with it.
    """
    visited = [(b"host", value) for name, value in headers if name == b"x-forwarded-host"][:1]
    if not visited:
        return headers
    return visited + [pair for pair in headers if pair[0] not in (b"host", b"x-forwarded-host")]


def _is_prefix(text: str) -> bool:
    return (
        text.startswith("/") and _PREFIX.fullmatch(text) is not None and ".." not in text.split("/")
    )


def _below(root: str, path: str) -> str:
    if path == root:
        return f"{root}/"
    return path if path.startswith(f"{root}/") else root + path
