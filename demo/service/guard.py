"""A guard before Gradio's server: it refuses what Gradio allows and this page does not need.

- A visitor's click may name uploaded files only. (When a page is mounted in an application and not
  started by `launch()`, Gradio copies any file of the machine that a call names.)
- Nothing is fetched for a visitor from another server. (Gradio would do so for `file=http...`, for
  `proxy=`, and for a file whose path is an address.)
- Only the calls that the page itself makes are answered, and only up to a size and a time.
- The browser is told to load nothing from other servers (Content-Security-Policy).
"""

import json
import math
import shutil
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, Literal

from anyio import move_on_after
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.formparsers import MultiPartException

from runtime.server.sub_path import path_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_CALL_BYTES = 512 << 10  # of a click's inputs, which are file names and choices, never images
CALL_SECONDS = 30.0  # for its body to arrive
MAX_UPLOAD_BYTES = 256 << 20  # of one request with many pictures, each of which has its own limit
_SPARE_BYTES = 1 << 20  # that stay free on the disk of uploads
UPLOAD_SECONDS = 600.0  # at 4 Mbit a second, MAX_UPLOAD_BYTES take nine minutes
_API = "/gradio_api"
_UPLOAD = f"{_API}/upload"
_CALLS = (f"{_API}/queue/join", f"{_API}/cancel", f"{_API}/reset", "/login")
_FILE = f"{_API}/file="
_PAGES = (
    "/", "/config", "/favicon.ico", "/login", "/logout", "/manifest.json", "/robots.txt",
    "/theme.css", f"{_API}/app_id", f"{_API}/login_check", f"{_API}/queue/data",
    f"{_API}/startup-events", f"{_API}/theme.css", f"{_API}/upload_progress", f"{_API}/user",
)  # fmt: skip
_FOLDERS = ("/assets/", "/static/", f"{_API}/heartbeat/")
_OUTSIDE = ("http:", "https:", "//")

_POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # Gradio's templates need both
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    ]
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """ASGI middleware around Gradio's application that refuses what the page does not need."""

    def __init__(self, application: Application, *, uploads: Path) -> None:
        """Wraps an application.

        Args:
            application: Gradio's.
            uploads: the folder of uploaded files, the only files that a call may name.
        """
        self._application = application
        self._uploads = uploads.resolve()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a refusal itself and hands everything else over, with bounds on its body."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        send = _with_headers(send)
        kind = _kind(scope["method"], path_of(scope))
        refusal: Application | None = None
        if kind == "refused":
            refusal = PlainTextResponse("not found", status_code=404)
        elif kind == "upload" and _announced_bytes(scope) > MAX_UPLOAD_BYTES:
            message = f"more than {MAX_UPLOAD_BYTES >> 20} MB at once; send less"
            refusal = PlainTextResponse(message, status_code=413)
        elif kind == "upload":
            receive = _uploaded(receive, self._uploads)
        elif kind == "call":
            body: bytes | None = None
            with move_on_after(CALL_SECONDS) as waiting:
                body = await _read(receive, MAX_CALL_BYTES)
            if waiting.cancelled_caught:
                refusal = _refused_call(
                    f"the click did not arrive within {CALL_SECONDS:g} s; try again",
                    status=408,
                    headers={"Connection": "close"},
                )
            elif body is None:
                refusal = _refused_call(
                    "so many files at once are too much; send fewer", status=413
                )
            elif _names_other_file(body, self._uploads):
                refusal = _refused_call("files come by upload", status=400)
            else:
                receive = _replay(body, receive)
        await (refusal or self._application)(scope, receive, send)


def _kind(method: str, path: str) -> Literal["read", "upload", "call", "refused"]:
    plain = path.rstrip("/") or "/"
    if method in ("GET", "HEAD"):
        file = path.startswith(_FILE) and not path[len(_FILE) :].lower().startswith(_OUTSIDE)
        return "read" if file or plain in _PAGES or path.startswith(_FOLDERS) else "refused"
    if method == "POST" and plain == _UPLOAD:
        return "upload"
    return "call" if method == "POST" and plain in _CALLS else "refused"


def _announced_bytes(scope: Scope) -> int:
    length = dict(scope["headers"]).get(b"content-length", b"")
    return int(length) if length.isdigit() else 0


def _refused_call(
    message: str, *, status: int, headers: dict[str, str] | None = None
) -> JSONResponse:
    """A refusal of a click, in the form whose message Gradio's script shows to the visitor."""
    return JSONResponse({"detail": message}, status_code=status, headers=headers)


def _with_headers(send: Send) -> Send:
    extra = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *extra]
        await send(message)

    return send_with_headers


async def _read(receive: Receive, limit: int) -> bytes | None:
    """The whole body; None if it is over the limit, or if the client has gone."""
    body: bytes = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > limit:
            return None
        if not message.get("more_body"):
            return body


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives `body` once, then what arrives after it."""
    pending = [body]

    async def replay() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return replay


def _uploaded(receive: Receive, uploads: Path) -> Receive:
    """The body of an upload, as long as it keeps within its limits and the client is there.

    It is ended with the error that Gradio itself raises for a broken form. At any other error,
    Gradio would leave the incomplete file in its folder for ever, and a traceback in the log.
    """
    received, more, end = 0, True, time.monotonic() + UPLOAD_SECONDS

    async def receive_within_limits() -> Message:
        nonlocal received, more
        if not more:  # only the client's disconnecting follows a body, and that has no limit
            return await receive()
        message: Message = {}
        with move_on_after(max(0.0, end - time.monotonic())) as waiting:
            message = await receive()
        if waiting.cancelled_caught:
            raise MultiPartException(f"the upload did not arrive within {UPLOAD_SECONDS:g} s")
        if message["type"] == "http.disconnect":
            raise MultiPartException("the client left before its upload was complete")
        size = len(message.get("body", b""))
        # A full disk must be noticed before Gradio writes: it would leave the part of the file.
        if _free_bytes(uploads) < size + _SPARE_BYTES:
            raise MultiPartException("the server has no room for uploads now; try again later")
        received += size
        # Gradio answers 413 when the message has the words "maximum allowed size".
        if received > MAX_UPLOAD_BYTES:
            raise MultiPartException(f"over the maximum allowed size, {MAX_UPLOAD_BYTES >> 20} MB")
        more = message.get("more_body", False)
        return message

    return receive_within_limits


def _free_bytes(folder: Path) -> float:
    try:
        return shutil.disk_usage(folder).free
    except OSError:  # there is no such folder; Gradio makes it
        return math.inf


def _names_other_file(body: bytes, uploads: Path) -> bool:
    """Whether a call names a file that was not uploaded, or is too deeply nested to tell."""
    try:
        pending = [json.loads(body)]
    except ValueError:
        return False  # a login form, or nonsense that Gradio refuses itself
    except RecursionError:
        return True
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str) and not _is_inside(path, uploads):
                return True
            pending += value.values()
    return False


def _is_inside(path: str, folder: Path) -> bool:
    try:
        return Path(path).resolve().is_relative_to(folder)
    except (OSError, ValueError):  # too long, or a null character in it
        return False
