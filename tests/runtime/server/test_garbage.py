"""Python's search for garbage stops every thread, so requests leave it nothing to find."""

import gc
import json
from pathlib import Path

import httpx
import pytest
import uvicorn
from live_server import serving

from runtime import Batcher, open_classifier
from runtime.commands import serve
from runtime.server.api import build_api

REQUESTS = 50


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("path", ["/v1/classify", "/v2/models/colours-toy-encoded/infer"])
def test_a_request_leaves_no_cycles(toy_bundle: Path, path: str, closed: bool) -> None:
    """Answered or refused, everything of a request is freed when it ends."""
    content = (toy_bundle / "examples" / "red.png").read_bytes()
    headers = {"Content-Type": "image/png", "Inference-Header-Content-Length": "0"}
    with (
        open_classifier(toy_bundle) as classifier,
        Batcher(classifier) as batcher,
        serving(build_api(batcher)) as client,
    ):

        def ask() -> httpx.Response:
            return client.post(path, content=content, headers=headers)

        if closed:
            batcher.close()
        assert ask().status_code == (503 if closed else 200)
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for _ in range(REQUESTS):
                ask()
            gc.collect()
            kinds = [type(found).__module__ for found in gc.garbage]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    of_servers = [name for name in kinds if name.startswith(("uvicorn", "starlette", "runtime"))]
    assert len(of_servers) < REQUESTS / 10  # it was one and more for each request


def test_the_command_leaves_its_modules_out_of_the_search(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, int] = {}

    def run(_server: uvicorn.Server, sockets: object) -> None:
        seen["frozen"], seen["threshold"] = gc.get_freeze_count(), gc.get_threshold()[0]

    before = gc.get_threshold()
    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.setattr(serve.signal, "signal", lambda *_: None)
    try:
        assert serve.main([str(toy_bundle), "--port", "0"]) == 0
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
    assert seen["frozen"] > 50_000, json.dumps(seen)
    assert seen["threshold"] >= 10_000
