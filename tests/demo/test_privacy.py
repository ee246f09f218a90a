"""The page keeps nothing of a visitor, shows nothing of this machine, and fetches nothing."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

Open = Callable[..., Any]
PROGRAM = Path(__file__).with_name("page_with_a_window.py")


@pytest.fixture(scope="module")
def inside(
    toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory, serve_page: Callable[..., Any]
) -> Iterator[Any]:
    """A page with one more address that tells what it keeps."""
    folder = tmp_path_factory.mktemp("inside")
    with serve_page(PROGRAM, toy_bundle, cwd=folder, temporary=folder / "tmp") as served:
        yield served


def test_uploads_are_deleted_and_a_closed_tab_is_forgotten(
    inside: Any, visit: Open, pictures: Path
) -> None:
    def held(what: str) -> Any:
        return httpx.get(f"{inside.url}/window").json()[what]

    tab = visit(inside.url)
    tab.upload(pictures / "red.png")
    assert tab.label() == "red"
    assert held("files") == ["red.png"], "an upload is a file for a moment"
    tab.tab("Many")
    tab.page.set_input_files("#pictures-input input[type=file]", pictures / "green.jpg")
    tab.page.locator("#grid .summary").wait_for()
    assert wait_until(lambda: held("files") == [])
    tab.tab("Classify")
    tab.tab("Why")  # still answered, from the small view in memory
    tab.page.get_by_text("What “red” depends on").wait_for()
    assert held("sessions") == 1
    tab.page.close()
    assert wait_until(lambda: held("sessions") == 0, 30), "Gradio would keep it for an hour"


def test_of_a_forgotten_picture_the_page_says_so(
    toy_bundle: Path, pictures: Path, tmp_path: Path, visit: Open, serve_page: Callable[..., Any]
) -> None:
    arguments = (PROGRAM, toy_bundle, "forgetful")
    with serve_page(*arguments, cwd=tmp_path, temporary=tmp_path / "t") as served:
        tab = visit(served.url)
        tab.upload(pictures / "red.png")
        assert tab.label() == "red"
        time.sleep(3)  # once a second, Gradio looks for pictures that are too old
        for pane, shown in (("Why", "#why"), ("Compare", "#compared")):
            tab.tab(pane)
            tab.page.locator(shown, has_text="Your picture was forgotten").wait_for()
        tab.tab("Answer")
        assert tab.label() == "red", "what is shown stays until it cannot be answered for"
        tab.page.get_by_label("Runs on").click()
        tab.page.get_by_role("option", name="fp16, ONNX Runtime, CPU").click()
        tab.page.locator("#answer", has_text="Your picture was forgotten").wait_for()
        tab.upload(pictures / "text.jpg")
        tab.page.locator("#answer", has_text="cannot be read").wait_for()
        tab.tab("Why")
        tab.page.locator("#why", has_text="No picture yet").wait_for()
        tab.page.close()


def test_of_an_upload_that_breaks_off_nothing_stays(inside: Any) -> None:
    """Gradio deletes only files that came whole. The fixture reads the log, which must be clean."""
    host, _, port = inside.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
            b'Content-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nhalf a pic'
        )

        def parts() -> list[Path]:
            return [path for path in inside.folder.iterdir() if path.name.startswith("tmp")]

        assert wait_until(lambda: parts() != [])
    assert wait_until(lambda: parts() == [])


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


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
def test_nothing_of_this_machine_can_be_read(inside: Any, path: str) -> None:
    answer = httpx.get(inside.url + path)
    assert answer.status_code in (403, 404), answer.text
    assert "root:" not in answer.text


def test_not_even_the_bundle_or_the_upload_folder_is_listed(inside: Any, toy_bundle: Path) -> None:
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
def test_calls_that_the_page_does_not_make_are_refused(inside: Any, method: str, path: str) -> None:
    assert httpx.request(method, inside.url + path, json={}).status_code == 404


def join_body(value: Any) -> dict[str, Any]:
    return {"data": [value, "0:onnx-cpu:fp32"], "fn_index": 0, "session_hash": "x"}


@pytest.mark.parametrize(
    "path",
    [
        "http://127.0.0.1:1/x.png",
        " HTTPS://example.com/x.png",
        "/etc/hostname",
        "relative.png",
        "{uploads}/../../etc/hostname",
        "{uploads}-beside/x.png",
        "\\u0000",
        "x" * 5000,
    ],
)
def test_a_call_may_name_only_uploaded_files(inside: Any, path: str) -> None:
    file = {"path": path.replace("{uploads}", str(inside.folder)), "meta": {}}
    answer = httpx.post(f"{inside.url}/gradio_api/queue/join", json={"data": [[{"deep": file}]]})
    assert (answer.status_code, answer.json()["detail"]) == (400, "files come by upload")


def test_without_our_guard_gradio_itself_still_refuses(
    toy_bundle: Path, pictures: Path, tmp_path: Path, serve_page: Callable[..., Any]
) -> None:
    """A forged call that names a file of this machine ends in an error, not in an answer."""
    arguments = (PROGRAM, toy_bundle, "unguarded")
    with serve_page(*arguments, cwd=tmp_path, temporary=tmp_path / "t", forged=True) as served:
        config = httpx.get(f"{served.url}/config").json()
        box = next(part["id"] for part in config["components"] if part["type"] == "image")
        upload = next(call for call in config["dependencies"] if call["inputs"][:1] == [box])
        body = {
            "data": [
                {"path": str(pictures / "red.png"), "meta": {"_type": "gradio.FileData"}},
                "0:onnx-cpu:fp32",
            ],
            "fn_index": upload["id"],
            "session_hash": "forged",
        }
        assert httpx.post(f"{served.url}/gradio_api/queue/join", json=body).status_code == 200
        events = httpx.get(f"{served.url}/gradio_api/queue/data", params={"session_hash": "forged"})
    lines = [line[6:] for line in events.text.splitlines() if line.startswith("data:")]
    messages = {message["msg"]: message for message in map(json.loads, lines)}
    done = messages["process_completed"]
    assert not done["success"]
    assert str(pictures) not in json.dumps(done), "errors tell nothing of this machine"


def test_large_and_deep_calls_are_refused_before_they_cost_anything(inside: Any) -> None:
    url = f"{inside.url}/gradio_api/queue/join"
    refused = httpx.post(url, content=b"x" * (600 << 10))
    assert refused.status_code == 413
    assert refused.json() == {"detail": "so many files at once are too much; send fewer"}
    assert httpx.post(url, content=b"[" * 200_000).status_code == 400


def test_the_browser_is_told_to_load_nothing_from_outside(inside: Any) -> None:
    headers = httpx.get(inside.url).headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    config = httpx.get(f"{inside.url}/config").json()
    assert not config.get("is_space")
    assert config["analytics_enabled"] is False
    assert config["show_error"] is False
