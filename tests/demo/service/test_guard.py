"""The guard before Gradio. A stand-in for Gradio records what the guard lets through."""

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.formparsers import MultiPartException

from demo.service import guard
from demo.service.guard import HEADERS, Guard

CALL = "/gradio_api/queue/join"
UPLOAD = "/gradio_api/upload"


class Behind:
    """Reads the whole body, as Gradio would, and answers 200."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.bodies.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def request(
    behind: Behind,
    method: str,
    path: str,
    chunks: Sequence[bytes] = (b"",),
    *,
    uploads: Path = Path("/uploads"),
    announced: int | None = None,
    stalls: bool = False,
) -> tuple[int, dict[str, str]]:
    """Status and headers.

    A client that `stalls` keeps the connection and sends no more than `chunks`.
    """
    messages = [
        {"type": "http.request", "body": chunk, "more_body": stalls or number + 1 < len(chunks)}
        for number, chunk in enumerate(chunks)
    ]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if stalls and not messages:
            await asyncio.sleep(20)
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [] if announced is None else [(b"content-length", str(announced).encode())]
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    asyncio.run(Guard(behind, uploads=uploads)(scope, receive, send))
    return sent[0]["status"], {k.decode(): v.decode() for k, v in sent[0]["headers"]}


def test_a_call_reaches_gradio_whole_and_the_answer_carries_our_headers() -> None:
    behind = Behind()
    status, headers = request(behind, "POST", CALL, [b'{"data": [', b"1]}"])
    assert status == 200
    assert behind.bodies == [b'{"data": [1]}']
    for name, value in HEADERS.items():
        assert headers[name.lower()] == value


@pytest.mark.parametrize("announced", [None, 600 << 10])
def test_a_large_call_is_refused(announced: int | None) -> None:
    behind = Behind()
    status, headers = request(behind, "POST", CALL, [b"x" * (300 << 10)] * 2, announced=announced)
    assert (status, behind.bodies) == (413, [])
    assert headers["content-type"] == "application/json", "Gradio's script reads no other form"


def test_a_large_upload_is_refused_when_it_says_so_and_cut_when_it_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard, "MAX_UPLOAD_BYTES", 1000)
    behind = Behind()
    assert request(behind, "POST", UPLOAD, announced=1001)[0] == 413
    with pytest.raises(MultiPartException, match="maximum allowed size"):
        request(behind, "POST", UPLOAD, [b"x" * 400] * 3)
    assert request(behind, "POST", UPLOAD, [b"x" * 500] * 2, announced=1000)[0] == 200
    assert behind.bodies == [b"x" * 1000]


def test_an_upload_ends_before_the_disk_is_full(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Gradio answers this error with its words, and deletes the parts of files (test_privacy)."""
    free = [100 << 20, guard._SPARE_BYTES + 499, 100 << 20]
    monkeypatch.setattr(guard.shutil, "disk_usage", lambda _: SimpleNamespace(free=free.pop(0)))
    behind = Behind()
    with pytest.raises(MultiPartException, match="the server has no room for uploads now"):
        request(behind, "POST", UPLOAD, [b"x" * 500] * 2, uploads=tmp_path)
    assert request(behind, "POST", UPLOAD, [b"y" * 500], uploads=tmp_path)[0] == 200
    assert behind.bodies[-1:] == [b"y" * 500]


def test_a_client_that_leaves_while_it_calls_harms_nobody() -> None:
    behind = Behind()
    status, _ = request(behind, "POST", CALL, [b"half", b"", b""][:0])
    assert status == 413
    assert behind.bodies == []


def test_bodies_that_do_not_arrive_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "CALL_SECONDS", 0.1)
    monkeypatch.setattr(guard, "UPLOAD_SECONDS", 0.1)
    behind = Behind()
    started = time.monotonic()
    status, headers = request(behind, "POST", CALL, [b"half"], stalls=True)
    assert (status, headers["connection"], behind.bodies) == (408, "close", [])
    with pytest.raises(MultiPartException, match="did not arrive within"):
        request(behind, "POST", UPLOAD, [b"half"], stalls=True)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("method", "path", "passes"),
    [
        ("GET", "/", True),
        ("HEAD", "/", True),
        ("GET", "/assets/index.js", True),
        ("GET", "/gradio_api/heartbeat/abc", True),
        ("GET", "/gradio_api/file=/uploads/a/b.png", True),
        ("GET", "/gradio_api/file=//example.com/a.png", False),
        ("GET", "/gradio_api/file=hTTp://example.com", False),
        ("GET", "/gradio_api/stream/x", False),
        ("GET", "/assetsx", False),
        ("POST", "/gradio_api/upload/", True),
        ("POST", "/login", True),
        ("POST", "/", False),
        ("PATCH", CALL, False),
        ("OPTIONS", CALL, False),
    ],
)
def test_only_what_the_page_needs_passes(method: str, path: str, passes: bool) -> None:
    behind = Behind()
    status, _ = request(behind, method, path)
    assert status == (200 if passes else 404)
    assert len(behind.bodies) == passes


def test_files_are_named_by_where_they_really_lie(tmp_path: Path) -> None:
    uploads = tmp_path / "uploads"
    (uploads / "a").mkdir(parents=True)
    (uploads / "a" / "x.png").write_bytes(b"x")
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"s")
    (uploads / "link.png").symlink_to(secret)

    def named(path: Path | str) -> int:
        body = json.dumps({"data": [{"path": str(path), "url": None}]}).encode()
        return request(Behind(), "POST", CALL, [body], uploads=uploads)[0]

    assert named(uploads / "a" / "x.png") == 200
    assert named(uploads / "a" / ".." / ".." / "secret.png") == 400
    assert named(uploads / "link.png") == 400
    assert named(secret) == 400
