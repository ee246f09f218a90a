"""`python demo/app.py`: its address, its mistakes, logins, and the API beside the page."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn
from fastapi.responses import PlainTextResponse
from live_server import serving

from demo import app
from demo import server as page_server
from demo.service.models import Models
from runtime.base.errors import UserError
from runtime.model.bundle import read_card, write_card

Open = Callable[..., Any]
APP = Path(__file__).resolve().parents[2] / "demo" / "app.py"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], ("nowhere does not exist", "expected a bundle, a run or an .onnx file")),
        ([], ("runs/latest does not exist", "python training/run.py --arch mobilenetv2")),
        (["{toy}", "{toy}", "{toy}"], ("received 3 models", "expected one, or two to compare")),
        (["{toy}", "--port", "65536"], ("port 65536", "0 to 65535")),
        (["{toy}", "--port", "x"], ("invalid int value", "--help")),
        (["{toy}", "--port", "{taken}"], ("cannot listen", "in use", "--port")),
        (["{toy}", "--host", "192.0.2.1"], ("cannot listen", "192.0.2.1", "--host")),
        (["{toy}", "--auth", "nocolon"], ("USER:PASSWORD",)),
        (["{toy}", "--auth", "user:"], ("USER:PASSWORD",)),
        (["{toy}", "--auth", "a:b", "--api"], ("would be open to all", "SKD_EDGE_TOKEN")),
        (["{empty}"], ("is not a bundle", "python export/run.py")),
        (["{toy}", "--nonsense"], ("unrecognized", "`python demo/app.py --help` lists")),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str],
    words: tuple[str, ...],
    command: Callable[..., Any],
    toy_bundle: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "empty").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        values = {
            "{toy}": str(toy_bundle),
            "{empty}": str(tmp_path / "empty"),
            "{taken}": str(taken.getsockname()[1]),
        }
        given = [values.get(argument, argument) for argument in arguments]
        finished = command("demo/app.py", *given, cwd=tmp_path, timeout=60)
    assert finished.returncode == 2
    (line,) = finished.stderr.splitlines()
    for word in words:
        assert word in line
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize("name", ["SKD_EDGE_AUTH", "SKD_EDGE_TOKEN"])
@pytest.mark.parametrize("value", ["", " "])
def test_a_secret_that_is_set_to_nothing_is_refused(
    name: str, value: str, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script whose variable has no value must not open the page to all."""
    monkeypatch.setenv(name, value)
    monkeypatch.delattr(app, "listen")  # so far it must not come
    with pytest.raises(UserError, match=f"received an empty {name}, expected .* or unset it"):
        app.main([str(toy_bundle), "--port", "0"])


def test_it_says_which_run_it_shows_and_where(
    toy_bundle: Path, tmp_path: Path, serve_page: Callable[..., Any]
) -> None:
    run = tmp_path / "runs" / "colours-toy-ce-s0"
    run.mkdir(parents=True)
    (run / "bundle").symlink_to(toy_bundle)
    (tmp_path / "runs" / "latest").symlink_to(run.name)
    with serve_page(APP, "--port", "0", cwd=tmp_path, temporary=tmp_path / "tmp") as served:
        assert served.printed[0] == "model: runs/colours-toy-ce-s0"
        assert "on onnx-cpu in fp32: the best that runs here; onnx-cuda:" in served.printed[1]
        assert httpx.get(served.url).status_code == 200


def test_behind_a_proxy_the_page_calls_the_host_that_visitors_see(toy_page: Any) -> None:
    """Its CSP lets a browser call no other one, such as the proxy's name of the page."""
    text = (APP.parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^    proxy_set_header (\S+) (\$\w+);", text, flags=re.MULTILINE))
    seen = {"$http_host": "example.org", "$scheme": "https"}
    headers = {"Host": "127.0.0.1:8000"} | {name: seen[value] for name, value in told.items()}
    config = httpx.get(f"{toy_page.url}/config", headers=headers).json()
    assert config["root"] == "https://example.org"


# The command with a stand-in for the page, which gets a signal while it is served.
SIGNALLED = """
import signal, sys
from types import SimpleNamespace
import uvicorn
from demo import app

class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        signal.raise_signal(getattr(signal, sys.argv[2]))
        self.should_exit |= sys.argv[3] == "nohup"

def serve(paths, listener, access, *, uploads):
    (uploads / "upload.png").touch()
    Server(uvicorn.Config(None, lifespan="off", log_level="error")).run(sockets=[listener])
    print("served to its end")

signal.signal(signal.SIGHUP, signal.SIG_IGN if sys.argv[3] == "nohup" else signal.SIG_DFL)
sys.modules["demo.server"] = SimpleNamespace(Access=SimpleNamespace, serve=serve)
sys.exit(app.main([sys.argv[1], "--port", "0"]))
"""


@pytest.mark.parametrize(
    ("name", "by", "printed"),
    [("SIGTERM", "", ""), ("SIGHUP", "", ""), ("SIGHUP", "nohup", "served to its end\n")],
)
def test_whatever_ends_the_page_leaves_no_upload_behind(
    name: str, by: str, printed: str, toy_bundle: Path, tmp_path: Path
) -> None:
    """SIGHUP comes when the terminal is closed; under nohup, the page then goes on."""
    ended = subprocess.run(
        [sys.executable, "-c", SIGNALLED, toy_bundle, name, by],
        cwd=APP.parents[1],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, printed), ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def guarded(
    toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory, serve_page: Callable[..., Any]
) -> Iterator[Any]:
    """Two models, with a login for people and a token for programs, both set by environment."""
    folder = tmp_path_factory.mktemp("guarded")
    arguments = (APP, toy_bundle, toy_bundle / "model.fp16.onnx", "--api", "--port", "0")
    secrets = {"SKD_EDGE_AUTH": "ada:love:lace", "SKD_EDGE_TOKEN": "for programs"}
    with serve_page(*arguments, cwd=folder, temporary=folder / "tmp", **secrets) as served:
        assert not any("love" in line or "programs" in line for line in served.printed)
        assert "API: only the first model called colours-toy is served" in served.printed
        yield served


def test_without_a_login_nothing_is_answered(guarded: Any, pictures: Path) -> None:
    assert "picture-input" not in httpx.get(guarded.url).text
    with (pictures / "red.png").open("rb") as file:
        upload = httpx.post(f"{guarded.url}/gradio_api/upload", files={"files": file})
    join = httpx.post(f"{guarded.url}/gradio_api/queue/join", json={"data": []})
    shown = httpx.get(f"{guarded.url}/gradio_api/file={guarded.folder}/x.png")
    assert [upload.status_code, join.status_code, shown.status_code] == [401, 401, 401]
    wrong = {"username": "ada", "password": "love"}
    assert httpx.post(f"{guarded.url}/login", data=wrong).status_code == 400


def test_people_log_in_and_compare_two_models(guarded: Any, visit: Open, pictures: Path) -> None:
    tab = visit(guarded.url)
    tab.page.get_by_label("username").fill("ada")
    tab.page.get_by_label("password").fill("love:lace")
    tab.page.get_by_role("button", name="Login").click()
    tab.upload(pictures / "blue.webp")
    assert tab.label() == "blue"
    tab.tab("Compare")
    assert tab.page.inner_text("[data-testid=agreement]") == "Both say “blue”."
    names = tab.page.locator("#compared h3").all_inner_texts()
    assert names[0].endswith("fp32, ONNX Runtime, CPU")
    assert names[1] == "model.fp16.onnx: fp16, ONNX Runtime, CPU"


def test_programs_need_the_token_and_get_the_same_answer(guarded: Any, pictures: Path) -> None:
    image = (pictures / "red.png").read_bytes()
    url, headers = f"{guarded.url}/v1/classify", {"Content-Type": "image/png"}
    assert httpx.post(url, content=image, headers=headers).status_code == 401
    headers["Authorization"] = "Bearer for programs"
    answer = httpx.post(url, content=image, headers=headers)
    assert answer.status_code == 200
    first = answer.json()["results"][0]["predictions"][0]
    assert first["label"] == "red"
    assert httpx.get(f"{guarded.url}/healthz").json() == {"status": "ok"}
    model = httpx.get(f"{guarded.url}/v1/model", headers=headers).json()
    assert (model["precision"], model["models"]) == ("fp32", ["colours-toy"])
    assert httpx.get(f"{guarded.url}/v2/health/ready").json() == {"ready": True}
    assert httpx.get(f"{guarded.url}/v1/nothing", headers=headers).status_code == 404


def test_programs_may_send_larger_pictures_than_visitors_of_the_page(
    toy_bundle: Path, pictures: Path
) -> None:
    from demo.server import _api_models, with_api

    red = (pictures / "red.png").read_bytes()
    with ExitStack() as closing:
        models = Models([toy_bundle])
        closing.callback(models.close)
        page = PlainTextResponse("page")
        application = with_api(page, _api_models(models, closing), token=None)
        client = closing.enter_context(serving(application))
        for megabytes, status in ((20, 200), (33, 413)):
            body = red + bytes(megabytes << 20)
            headers = {"Content-Type": "image/png"}
            answer = client.post("/v1/classify", content=body, headers=headers)
            assert answer.status_code == status, answer.text


def test_programs_can_ask_both_models_by_their_names(toy_bundle: Path, tmp_path: Path) -> None:
    from demo.server import _api_models

    other = tmp_path / "other"
    shutil.copytree(toy_bundle, other)
    card = read_card(other)
    provenance = msgspec.structs.replace(card.provenance, data="more colours")
    write_card(other, msgspec.structs.replace(card, provenance=provenance))
    with ExitStack() as closing:
        models = Models([toy_bundle, other])
        closing.callback(models.close)
        served = _api_models(models, closing)
        assert served.names == ["colours-toy", "more_colours-toy"]
        assert served.default.current.batcher.classifier is models.first.classifier


def test_help_names_every_option_and_imports_no_gradio(command: Callable[..., Any]) -> None:
    finished = command("demo/app.py", "--help", cwd=Path.cwd(), timeout=60)
    assert finished.returncode == 0
    for option in ("MODEL", "--host", "--port", "--auth", "--api", "SKD_EDGE_AUTH"):
        assert option in finished.stdout
    probe = (
        "import demo.app, sys; sys.exit(any(m in sys.modules for m in ('gradio', 'onnxruntime')))"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", probe]) == 0


@pytest.mark.parametrize("moment", ["the address", "the server"])
def test_ctrl_c_from_the_address_on_is_the_usual_end(
    moment: str,
    toy_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What takes time is done before the address is printed, behind which anybody may end it."""
    done: list[str] = []

    def pressed(*_: object, **__: object) -> None:
        done.append("pressed")
        raise KeyboardInterrupt

    place = (page_server, "_address") if moment == "the address" else (uvicorn.Server, "run")
    monkeypatch.setattr(*place, pressed)
    monkeypatch.setattr(page_server, "freeze_loaded", lambda: done.append("frozen"))
    monkeypatch.setattr(page_server, "build_page_application", lambda *_, **__: None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        try:
            page_server.serve([toy_bundle], listener, page_server.Access(), uploads=tmp_path)
        except KeyboardInterrupt:  # it would end all tests
            pytest.fail("it is an error")
    assert done == ["frozen", "pressed"]
