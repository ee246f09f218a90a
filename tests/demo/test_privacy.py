"""Nothing of a visitor stays, nothing of this machine is shown, and no way leads outside."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from demo.models import Models

Open = Callable[..., Any]
# Gradio's queue sets an option of pandas that pandas has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated")


@dataclass(frozen=True)
class Inside:
    """A page in this process, so that what the server holds can be looked at."""

    url: str
    folder: Path
    blocks: Any


@pytest.fixture(scope="module")
def inside(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    """The page with uploads deleted after 2 seconds instead of 60."""
    folder = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        from demo import page, server

        patch.setattr(page, "DELETE_CACHE_S", (1, 2))
        blocks: list[Any] = []
        build = page.build_page
        patch.setattr(
            server, "build_page", lambda models: blocks.append(build(models)) or blocks[0]
        )
        models = Models([toy_bundle])
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(server.build_page_application(models), log_level="warning")
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        yield Inside(f"http://127.0.0.1:{listener.getsockname()[1]}", folder, blocks[0])
        running.should_exit = running.force_exit = True
        thread.join()
        listener.close()
        models.close()


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def test_uploads_are_deleted_and_a_closed_tab_is_forgotten(
    inside: Inside, visit: Open, pictures: Path
) -> None:
    tab = visit(inside.url)
    tab.upload(pictures / "red.png")
    assert tab.label() == "red"
    tab.tab("Many")
    tab.page.set_input_files("#pictures-input input[type=file]", pictures / "green.jpg")
    tab.page.locator("#grid .summary").wait_for()
    assert files_in(inside.folder), "an upload is a file for a moment"
    assert wait_until(lambda: not files_in(inside.folder))
    tab.tab("Classify")
    tab.tab("Why")  # still answered, from the small view in memory
    tab.page.get_by_text("What “red” hangs on").wait_for()
    sessions = inside.blocks.state_holder.session_data
    assert len(sessions) == 1
    tab.page.close()
    assert wait_until(lambda: not sessions, 30), "Gradio would keep it for an hour"


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=/etc",
        "/gradio_api/file=.",
        "/gradio_api/file=pyproject.toml",
        "/gradio_api/file=../../etc/passwd",
        "/gradio_api/file=http://example.com/",
        "/gradio_api/file=HTTPS://example.com/",
        "/gradio_api/proxy=https://example.com/",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/gradio_api/runs",
        "/static/../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/assets/..%2f..%2f..%2fetc%2fpasswd",
        "/docs",
        "/openapi.json",
        "/v1/model",
        "/metrics",
        "/monitoring",
    ],
)
def test_nothing_of_this_machine_can_be_read(inside: Inside, path: str) -> None:
    answer = httpx.get(inside.url + path)
    assert answer.status_code in (403, 404), answer.text
    assert "root:" not in answer.text


def test_not_even_the_bundle_or_the_upload_folder_is_listed(
    inside: Inside, toy_bundle: Path
) -> None:
    for path in (toy_bundle, toy_bundle / "card.json", toy_bundle / "model.onnx", inside.folder):
        assert httpx.get(f"{inside.url}/gradio_api/file={path}").status_code in (403, 404)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/call/predict"),
        ("POST", "/gradio_api/vibe-edit"),
        ("POST", "/gradio_api/run-history/connect"),
        ("POST", "/gradio_api/component_server"),
        ("PUT", "/gradio_api/upload"),
        ("DELETE", "/"),
    ],
)
def test_calls_that_the_page_does_not_make_are_refused(
    inside: Inside, method: str, path: str
) -> None:
    assert httpx.request(method, inside.url + path, json={}).status_code == 404


def join_body(value: Any) -> dict[str, Any]:
    return {"data": [value, "0:onnx-cpu:fp32"], "fn_index": 0, "session_hash": "x"}


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/x.png", " HTTPS://example.com/x.png"])
def test_the_server_fetches_no_address_for_a_visitor(inside: Inside, address: str) -> None:
    file = {"path": address, "meta": {"_type": "gradio.FileData"}}
    answer = httpx.post(f"{inside.url}/gradio_api/queue/join", json=join_body([{"deep": file}]))
    assert (answer.status_code, answer.text) == (400, "files come by upload")


def test_large_and_deep_calls_are_refused_before_they_cost_anything(inside: Inside) -> None:
    url = f"{inside.url}/gradio_api/queue/join"
    assert httpx.post(url, content=b"x" * (600 << 10)).status_code == 413
    assert httpx.post(url, content=b"[" * 200_000).status_code == 400


def test_a_file_that_was_not_uploaded_is_not_classified(inside: Inside, pictures: Path) -> None:
    """A forged call that names a file of this machine ends in an error, not in an answer."""
    config = httpx.get(f"{inside.url}/config").json()
    box = next(part["id"] for part in config["components"] if part["type"] == "image")
    upload = next(call for call in config["dependencies"] if call["inputs"][:1] == [box])
    file = {"path": str(pictures / "red.png"), "meta": {"_type": "gradio.FileData"}}
    body = {"data": [file, "0:onnx-cpu:fp32"], "fn_index": upload["id"], "session_hash": "forged"}
    assert httpx.post(f"{inside.url}/gradio_api/queue/join", json=body).status_code == 200
    events = httpx.get(f"{inside.url}/gradio_api/queue/data", params={"session_hash": "forged"})
    messages = [
        json.loads(line[6:]) for line in events.text.splitlines() if line.startswith("data:")
    ]
    done = next(message for message in messages if message["msg"] == "process_completed")
    assert not done["success"]
    assert "red" not in json.dumps(done)
    assert str(pictures) not in json.dumps(done), "errors tell nothing of this machine"


def test_the_browser_is_told_to_load_nothing_from_outside(inside: Inside) -> None:
    headers = httpx.get(inside.url).headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    config = httpx.get(f"{inside.url}/config").json()
    assert not config.get("is_space")
    assert config["analytics_enabled"] is False
    assert config["show_error"] is False
