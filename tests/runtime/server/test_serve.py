"""The HTTP API: answers, limits, errors, tokens, metrics, shutdown."""

import gzip
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from live_server import serving
from numpy.typing import NDArray
from PIL import Image

from runtime import Batcher, Classifier, Limits, open_classifier
from runtime.backends.session import Session
from runtime.base.errors import BackendError, DeviceLostError, UserError
from runtime.commands import serve
from runtime.commands.serve import _batcher, _parser
from runtime.server.admission import ServerSettings
from runtime.server.api import build_api
from runtime.server.listening import bearer_token, listen
from runtime.server.multipart_form import FormFiles
from runtime.server.reloading import Reloader
from runtime.server.server_config import server_config

PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def classifier(toy_bundle: Path) -> Iterator[Classifier]:
    with open_classifier(toy_bundle, limits=Limits(max_pixels=10_000)) as classifier:
        yield classifier


@pytest.fixture(scope="module")
def client(classifier: Classifier) -> Iterator[httpx.Client]:
    settings = ServerSettings(max_body_bytes=200_000, max_images=4)
    with serving(build_api(classifier, settings=settings)) as client:
        yield client


@pytest.fixture(scope="module")
def red(toy_bundle: Path) -> bytes:
    return (toy_bundle / "examples" / "red.png").read_bytes()


def is_problem(response: httpx.Response, status: int, *words: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    content = response.json()
    assert set(content) == {"type", "title", "status", "detail"}
    assert content["status"] == status
    for word in words:
        assert word in content["detail"]


def test_one_raw_image(client: httpx.Client, red: bytes, classifier: Classifier) -> None:
    for kind in ("image/png", "image/jpeg; q=1", "IMAGE/PNG", "application/octet-stream"):
        response = client.post("/v1/classify", content=red, headers={"Content-Type": kind})
        assert response.status_code == 200
        (result,) = response.json()["results"]
        assert result["name"] == "image"
        expected = [
            {"label": p.label, "index": p.index, "probability": p.probability}
            for p in classifier.classify(red)
        ]
        assert result["predictions"] == expected


def test_what_the_decoder_warns_of_is_in_the_answer(client: httpx.Client, red: bytes) -> None:
    buffer = io.BytesIO()
    values = np.linspace(0, 1023, 1600).astype(np.uint16).reshape(40, 40)
    Image.fromarray(values).save(buffer, "PNG")
    files = [("images", ("red.png", red)), ("images", ("few.png", buffer.getvalue()))]
    whole, few = client.post("/v1/classify", files=files).json()["results"]
    assert "warnings" not in whole
    assert len(few["warnings"]) == 1
    assert "end below 1024, as those of 10 bits do" in few["warnings"][0]
    assert few["predictions"]


def test_many_images_keep_their_order_and_names(client: httpx.Client, toy_bundle: Path) -> None:
    paths = [toy_bundle / "examples" / f"{name}.png" for name in ("blue", "red", "green")]
    files = [("images", (path.name, path.read_bytes())) for path in paths]
    files.insert(1, ("images", ("notes.txt", b"text")))
    results = client.post("/v1/classify?top_k=1", files=files).json()["results"]
    assert [r["name"] for r in results] == ["blue.png", "notes.txt", "red.png", "green.png"]
    assert "notes.txt: not a readable image" in results[1]["error"]
    labels = [r["predictions"][0]["label"] for r in results if "predictions" in r]
    assert labels == ["blue", "red", "green"]
    assert all(len(r["predictions"]) == 1 for r in results if "predictions" in r)


def test_undecodable_images_are_422(client: httpx.Client, red: bytes) -> None:
    post = client.post
    is_problem(post("/v1/classify", content=b"text", headers=PNG), 422, "not a readable image")
    is_problem(post("/v1/classify", content=b"", headers=PNG), 422, "is empty")
    is_problem(post("/v1/classify", content=red[:50], headers=PNG), 422)
    broken = [("images", ("a.jpg", b"1")), ("images", ("b.jpg", b"2"))]
    is_problem(post("/v1/classify", files=broken), 422, "a.jpg: not", "b.jpg: not")
    large = np.zeros((200, 200, 3), np.uint8)
    is_problem(post("/v1/classify", content=png(large), headers=PNG), 422, "the limit is 10000")


def png(pixels: NDArray[np.uint8]) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("top_k", ["0", "-1", "x", "1.5", "", "99999999999999999999"])
def test_senseless_top_k_is_422(client: httpx.Client, red: bytes, top_k: str) -> None:
    response = client.post(f"/v1/classify?top_k={top_k}", content=red, headers=PNG)
    is_problem(response, 422, "top_k")


def test_other_content_types_are_415(client: httpx.Client, red: bytes) -> None:
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", "images"):
        response = client.post("/v1/classify", content=red, headers={"Content-Type": kind})
        is_problem(response, 415, kind, "multipart/form-data")
    is_problem(client.post("/v1/classify", content=red), 415, "none")


def test_encoded_bodies_are_415(client: httpx.Client, red: bytes) -> None:
    headers = {**PNG, "Content-Encoding": "gzip"}
    response = client.post("/v1/classify", content=gzip.compress(red), headers=headers)
    is_problem(response, 415, "content encoding 'gzip'")
    assert response.headers["accept-encoding"] == "identity"
    headers["Content-Encoding"] = "identity"
    assert client.post("/v1/classify", content=red, headers=headers).status_code == 200


def test_broken_forms_are_refused(client: httpx.Client, red: bytes) -> None:
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    bodies = {
        b"": 400,
        b"garbage": 400,
        b"--x--": 422,
        b'--x\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\ncut': 400,
        b"--x\r\n\r\nno name\r\n--x--": 400,
        b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nfield\r\n--x--': 422,
    }
    for body, status in bodies.items():
        is_problem(client.post("/v1/classify", content=body, headers=form), status)
    no_boundary = {"Content-Type": "multipart/form-data"}
    is_problem(client.post("/v1/classify", content=red, headers=no_boundary), 400, "boundary")
    five = [("images", (f"{i}.png", red)) for i in range(5)]
    is_problem(client.post("/v1/classify", files=five), 413, "4 images")
    thousand = [("images", (f"{i}.png", b"")) for i in range(1000)]
    is_problem(client.post("/v1/classify", files=thousand), 413, "4 images")


@pytest.mark.parametrize("preamble", [b"", b"for old readers\r\n\r\n-", b"\r\n--\r\n--\r", b"\n"])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_form_may_have_a_preamble_and_an_epilogue(preamble: bytes, size: int, red: bytes) -> None:
    """RFC 2046, section 5.1.1."""
    part = b'\r\n--x\r\nContent-Disposition: form-data; name="i"; filename="a"\r\n\r\n%b' % red
    body = preamble + 2 * part + b"\r\n--x--\r\nan epilogue\r\n--x"
    body = body if preamble else body[2:]
    files = FormFiles("multipart/form-data; boundary=x", max_files=2)
    for start in range(0, len(body), size):
        files.write(body[start : start + size])
    assert [image.content for image in files.finish()] == [red, red]


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        (b"filename*=UTF-8''r%C3%B6t.png", "röt.png"),
        (b"filename*=utf-8'de'a%20b.png; filename=\"ab.png\"", "a b.png"),
        (b"filename=\"rot.png\"; filename*=UTF-8''r%C3%B6t.png", "röt.png"),
        (b"filename*=ISO-8859-1''r%F6t.png", "röt.png"),
        (b"FILENAME*=UTF-8''x%0Ay.png", "xy.png"),  # without control characters
        (b"filename=\"plain.png\"; filename*=klingon''%F6.png", "plain.png"),
        (b"filename*=UTF-8''%FF.png", "image 0"),
        (b"filename=\"a; filename*=UTF-8''b\"", "a; filename*=UTF-8''b"),
    ],
)
def test_names_of_files_in_the_extended_form(
    client: httpx.Client, red: bytes, parameters: bytes, name: str
) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="images"; ' + parameters + b"\r\n\r\n"
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = client.post("/v1/classify", content=head + red + b"\r\n--x--\r\n", headers=form)
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    assert (result["name"], result["predictions"][0]["label"]) == (name, "red")


@pytest.mark.parametrize("encoding", ["", ",", "identity, identity", "IDENTITY"])
def test_an_encoding_that_is_none_is_no_encoding(
    client: httpx.Client, red: bytes, encoding: str
) -> None:
    headers = PNG | {"Content-Encoding": encoding}
    assert client.post("/v1/classify", content=red, headers=headers).status_code == 200
    twice = [*PNG.items(), ("Content-Encoding", encoding), ("Content-Encoding", "br")]
    is_problem(client.post("/v1/classify", content=red, headers=twice), 415, "br")


@pytest.mark.parametrize("query", ["top_k=1&top_k=2", "top_k=3&top_k=3", "top_k=&top_k=1"])
def test_top_k_is_given_once(client: httpx.Client, red: bytes, query: str) -> None:
    response = client.post(f"/v1/classify?{query}", content=red, headers=PNG)
    is_problem(response, 422, "top_k is given 2 times")


def test_large_bodies_are_413(client: httpx.Client, red: bytes) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 10_000

    is_problem(client.post("/v1/classify", content=bytes(200_001), headers=PNG), 413, "200000")
    with suppress(httpx.WriteError):  # the server closed before all was sent
        is_problem(client.post("/v1/classify", content=endless(), headers=PNG), 413, "200000")
    assert client.post("/v1/classify", content=red, headers=PNG).status_code == 200


def test_unknown_paths_and_methods_are_problems(client: httpx.Client) -> None:
    is_problem(client.get("/v3"), 404)
    is_problem(client.get("/v1/classify"), 405)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/model", "/metrics"])
def test_head_is_answered_like_get_without_a_body(client: httpx.Client, path: str) -> None:
    asked = client.head(path)
    assert (asked.status_code, asked.content) == (200, b"")
    assert asked.headers["content-type"] == client.get(path).headers["content-type"]


def test_status_and_model(client: httpx.Client, toy_bundle: Path) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok"}
    model = client.get("/v1/model").json()
    assert model["card"] == json.loads((toy_bundle / "card.json").read_text())
    assert (model["backend"], model["precision"]) == ("onnx-cpu", "fp32")
    assert "the best that runs here" in model["reason"]


def test_metrics_count_requests_and_batches(classifier: Classifier, red: bytes) -> None:
    with serving(build_api(classifier)) as client:
        client.post("/v1/classify", files=[("images", ("a.png", red))] * 3)
        client.post("/v1/classify", content=b"x", headers=PNG)
        text = client.get("/metrics").text
    found = {name: float(value) for name, value in re.findall(r"^(\S+) (\S+)$", text, re.M)}
    assert found['skd_edge_requests_total{status="200"}'] == 1
    assert found['skd_edge_requests_total{status="422"}'] == 1
    assert found["skd_edge_batch_size_sum"] == 3
    assert found["skd_edge_request_seconds_count"] == 2
    assert found["skd_edge_waiting_images"] == 0


def test_metrics_count_what_was_really_sent(
    slow: Callable[[float], Classifier], red: bytes
) -> None:
    head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
    framed = head + b"Content-Length: %d\r\n\r\n" % len(red) + red
    cut = head + b"Transfer-Encoding: chunked\r\n\r\nno number\r\n"
    with serving(build_api(slow(0.3))) as client:
        address = (client.base_url.host, client.base_url.port)
        for request, gone in ((framed, True), (framed, False), (cut, False)):
            with socket.create_connection(address) as connection:
                connection.sendall(request)
                if gone:  # a reset, as of a client that has crashed
                    time.sleep(0.1)
                    reset = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                else:
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(1 << 16):
                        pass
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            text = client.get("/metrics").text
            found = dict(re.findall(r'^skd_edge_requests_total{status="(\d+)"} (\S+)$', text, re.M))
            if len(found) == 3:
                break
        assert found == {"200": "1.0", "400": "1.0", "499": "1.0"}


def test_a_token_guards_what_it_should(classifier: Classifier, red: bytes) -> None:
    with serving(build_api(classifier, settings=ServerSettings(token="söcret"))) as client:
        for header in (None, "Bearer wrong", "Basic söcret", "söcret"):
            headers = PNG | ({"Authorization": header.encode()} if header else {})
            response = client.post("/v1/classify", content=red, headers=headers)
            is_problem(response, 401, "Authorization: Bearer")
            assert response.headers["www-authenticate"] == "Bearer"
        is_problem(client.get("/v1/model"), 401)
        is_problem(client.get("/metrics"), 401)
        assert client.head("/v1/model").status_code == client.head("/metrics").status_code == 401
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        headers = PNG | {"Authorization": "Bearer söcret".encode()}
        assert client.post("/v1/classify", content=red, headers=headers).status_code == 200


class SlowSession(Session):
    """Takes `seconds` for each batch."""

    def __init__(self, inner: Session, seconds: float) -> None:
        self.backend = inner.backend
        self.input_size, self.num_classes = inner.input_size, inner.num_classes
        self.inner, self.seconds = inner, seconds

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        time.sleep(self.seconds)
        return self.inner.run(images)

    def close(self) -> None:
        self.inner.close()


@pytest.fixture
def slow(toy_bundle: Path) -> Iterator[Callable[[float], Classifier]]:
    with open_classifier(toy_bundle) as classifier:
        inner = classifier.session

        def slowed(seconds: float) -> Classifier:
            classifier.session = SlowSession(inner, seconds)
            return classifier

        yield slowed


def test_a_full_queue_is_503_with_retry_after(
    slow: Callable[[float], Classifier], red: bytes
) -> None:
    with (
        Batcher(slow(0.2), max_batch=1, max_queue=2) as batcher,
        serving(build_api(batcher)) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        answers = list(pool.map(lambda _: post_image(client, red), range(8)))
        refused = [answer for answer in answers if answer.status_code != 200]
        assert 1 <= len(refused) < 8
        for answer in refused:
            is_problem(answer, 503, "limit is 2")
            assert int(answer.headers["retry-after"]) >= 1
        assert post_image(client, red).status_code == 200  # and it recovers


def post_image(client: httpx.Client, image: bytes) -> httpx.Response:
    return client.post("/v1/classify", content=image, headers=PNG)


def test_memory_of_all_bodies_is_bounded(slow: Callable[[float], Classifier], red: bytes) -> None:
    settings = ServerSettings(max_memory_bytes=len(red) + 10)
    classifier = slow(0)
    run = classifier.session._run
    entered, gate = threading.Event(), threading.Event()

    def held(images: Any) -> Any:
        entered.set()
        assert gate.wait(timeout=20)
        return run(images)

    with serving(build_api(classifier, settings=settings)) as client, ThreadPoolExecutor(1) as pool:
        classifier.session._run = held  # type: ignore[method-assign]
        first = pool.submit(post_image, client, red)
        assert entered.wait(timeout=20)  # its body is in the memory until it is answered
        assert [post_image(client, red).status_code for _ in range(3)] == [503] * 3
        gate.set()
        assert first.result(timeout=20).status_code == 200
        assert post_image(client, red).status_code == 200


def test_slow_answers_and_slow_bodies_are_cut_off(
    slow: Callable[[float], Classifier], red: bytes
) -> None:
    settings = ServerSettings(timeout_seconds=0.2)
    with serving(build_api(slow(0.6), settings=settings)) as client:
        is_problem(client.post("/v1/classify", content=red, headers=PNG), 503, "within 0.2 s")

        def dribble() -> Iterator[bytes]:
            yield red[:10]
            time.sleep(0.6)
            yield red[10:]

        is_problem(client.post("/v1/classify", content=dribble(), headers=PNG), 408, "0.2 s")


# A network that has failed once may fail for good. So "try again" would be wrong for it, too.
@pytest.mark.parametrize("failure", [RuntimeError, BackendError])
def test_a_failing_network_is_500_without_its_insides(
    slow: Callable[[float], Classifier],
    red: bytes,
    failure: type[Exception],
) -> None:
    classifier = slow(0)

    def fail(images: Any) -> Any:
        raise failure("secret path /home/user")

    classifier.session._run = fail  # type: ignore[method-assign]
    with serving(build_api(classifier)) as client:
        response = client.post("/v1/classify", content=red, headers=PNG)
        is_problem(response, 500, "its log has the reason")
        assert "secret" not in response.text
        assert "retry-after" not in response.headers
        assert client.get("/readyz").status_code == 200


def test_a_server_that_has_lost_its_gpu_is_neither_ready_nor_alive(
    slow: Callable[[float], Classifier], red: bytes
) -> None:
    """So load balancers send nothing more to it, and a liveness probe has it started again."""
    classifier = slow(0)

    def fail(images: Any) -> Any:
        raise DeviceLostError("secret path /home/user (CUDA 700)")

    health = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")
    with serving(build_api(classifier)) as client:
        assert [client.get(path).status_code for path in health] == [200] * 4
        classifier.session._run = fail  # type: ignore[method-assign]
        for _ in range(2):  # the one whose batch has failed, and one that comes later
            response = post_image(client, red)
            is_problem(response, 503, "has lost its GPU", "only a new process")
            assert "secret" not in response.text
        for path in health:
            answer = client.get(path)
            assert answer.status_code == client.head(path).status_code == 503
            assert "has lost its GPU" in answer.text


def test_a_closed_batcher_is_503_everywhere(classifier: Classifier, red: bytes) -> None:
    batcher = Batcher(classifier)
    with serving(build_api(batcher)) as client:
        batcher.close()
        for answer in (post_image(client, red), client.get("/readyz")):
            is_problem(answer, 503, "clos")
            assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_an_application_that_was_opened_before_a_fork_does_not_start(
    classifier: Classifier, capfd: pytest.CaptureFixture[str]
) -> None:
    """As gunicorn with --preload does it: its workers would accept images and never answer."""
    with Batcher(classifier) as batcher:
        application = build_api(batcher)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a fork beside threads is what is tested
            child = os.fork()
        if child == 0:
            with suppress(BaseException):  # whatever happens, pytest must not go on in the child
                uvicorn.Server(server_config(application, port=0)).run()
                os._exit(0)  # as after an orderly end
            os._exit(3)
        deadline = time.monotonic() + 20
        while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < deadline:
            time.sleep(0.02)
        if not ended[0]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert ended[0] == child, "it serves"
        assert os.waitstatus_to_exitcode(ended[1]) == 3  # uvicorn's, for a failed start
        assert "was opened before this process was forked; open it in" in capfd.readouterr().err
        with serving(application) as client:  # the parent serves
            assert client.get("/readyz").status_code == 200


def test_the_documentation_needs_nothing_from_outside(client: httpx.Client) -> None:
    page = client.get("/docs").text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert links
    for link in links:
        assert link.startswith("/")
        assert client.get(link).status_code == 200


@pytest.fixture
def server(
    toy_bundle: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    options = getattr(request, "param", [])
    process = subprocess.Popen(
        [sys.executable, "-m", "runtime", "serve", toy_bundle, "--port", "0", *options],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "toy" in process.stdout.readline()
    address = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
    assert address is not None
    yield process, address.group()
    process.kill()
    process.communicate()


def test_an_engine_is_given_a_batch_for_each_of_its_lanes(toy_bundle: Path) -> None:
    with open_classifier(toy_bundle) as classifier:
        classifier.session.backend, classifier.session.lanes = "tensorrt", 2
        before = {*threading.enumerate()}
        with _batcher(classifier, _parser().parse_args([])):
            names = [thread.name for thread in {*threading.enumerate()} - before]
    assert sum(name.startswith("network-") for name in names) == 2


@pytest.mark.parametrize(
    ("backend", "arguments", "seconds"),
    [
        ("onnx-cpu", [], 0.0),
        ("tensorrt", [], 0.005),
        ("onnx-cpu", ["--max-wait-ms", "7"], 0.007),
        ("tensorrt", ["--max-wait-ms", "0"], 0.0),
    ],
)
def test_images_wait_for_others_where_a_batch_gains(
    toy_bundle: Path, backend: str, arguments: list[str], seconds: float
) -> None:
    with open_classifier(toy_bundle) as classifier:
        classifier.session.backend = backend
        with _batcher(classifier, _parser().parse_args(arguments)) as batcher:
            assert batcher._max_wait == seconds


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_and_stops_cleanly(
    server: tuple[subprocess.Popen[str], str], red: bytes, stop: signal.Signals
) -> None:
    process, address = server
    answer = httpx.post(f"{address}/v1/classify", content=red, headers=PNG, timeout=30)
    assert answer.json()["results"][0]["predictions"][0]["label"] == "red"
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    malformed = httpx.post(f"{address}/v1/classify", content=b"abc", headers=form)
    assert (
        malformed.status_code == 400
    )  # the server's terminal must show nothing of it, as checked below
    busy = httpx.get(f"{address}/healthz")
    assert busy.status_code == 200
    process.send_signal(stop)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert errors == ""
    assert "Traceback" not in output


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_right_behind_the_address_ends_the_server(
    server: tuple[subprocess.Popen[str], str], stop: signal.Signals
) -> None:
    process, _ = server
    process.send_signal(stop)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_another_signal_ends_what_hangs_while_the_server_closes(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch, stop: signal.Signals
) -> None:
    def close(_: Reloader) -> None:
        signal.raise_signal(stop)  # as if it waited for a thread that hangs

    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: None)
    monkeypatch.setattr(serve, "freeze_loaded", lambda: None)
    monkeypatch.setattr(Reloader, "close", close)
    before = {n: signal.getsignal(n) for n in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(KeyboardInterrupt):
            serve.main([str(toy_bundle), "--port", "0"])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(
    "server", [["--max-queue", "2", "--max-images", "32", "--max-body-mb", "300"]], indirect=True
)
def test_what_can_never_be_accepted_is_not_told_to_come_again(
    server: tuple[subprocess.Popen[str], str], red: bytes
) -> None:
    _, address = server
    form = [("images", (f"{i}.png", red, "image/png")) for i in range(3)]
    answer = httpx.post(f"{address}/v1/classify", files=form, timeout=30)
    assert answer.status_code == 413
    large = red + bytes(270 << 20)
    answer = httpx.post(f"{address}/v1/classify", content=large, headers=PNG, timeout=30)
    assert answer.status_code == 200


def test_the_help_names_what_serves_by_itself(
    cli: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    shown = " ".join(cli("serve", "--help").stdout.split())
    assert "(default: runs/latest)" in shown
    assert "(default 8000)" in shown
    assert "None" not in shown


def test_mistakes_are_one_line(
    cli: Callable[..., subprocess.CompletedProcess[str]],
    toy_bundle: Path,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, words in (
            (["--port", str(port)], f"cannot listen on 127.0.0.1 port {port}"),
            (["--port", "70000"], "port 70000 is out of range"),
            (["--host", "no.such.host.invalid"], "choose another with --host"),
            (["--host", "a" * 70], "choose another with --host"),
            (["--port", "0", "--max-batch", "0"], "expected a whole number above 0"),
            (["--port", "0", "--max-wait-ms", "nan"], "'nan', expected a number of 0 or more"),
            (["--port", "0", "--max-wait-ms", "-1"], "'-1', expected a number of 0 or more"),
            (["--port", "0", "--max-wait-ms", "1e300"], "max_wait_ms 1e+300 from 0 to"),
            (["--port", "0", "--backend", "tensorrt"], "build_trt"),
        ):
            finished = cli("serve", toy_bundle, *arguments)
            assert finished.returncode == 2
            assert len(finished.stderr.splitlines()) == 1
            assert words in finished.stderr


@pytest.mark.parametrize("value", ["", " "])
def test_a_token_that_is_set_to_nothing_is_refused(
    value: str, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script whose variable has no value must not open the server to all."""
    monkeypatch.setenv("SKD_EDGE_TOKEN", value)
    monkeypatch.setattr(serve.signal, "signal", lambda *_: None)
    monkeypatch.delattr(serve, "listen")  # so far it must not come
    with pytest.raises(UserError, match="received an empty SKD_EDGE_TOKEN, expected a token;"):
        serve.main([str(toy_bundle), "--port", "0"])
    monkeypatch.setenv("SKD_EDGE_TOKEN", " secret ")
    assert bearer_token() == "secret"
    monkeypatch.delenv("SKD_EDGE_TOKEN")
    assert bearer_token() is None


def test_connections_do_not_wait_for_acknowledgements() -> None:
    # asyncio sets this only on sockets that it makes. Without it, answers take 40 ms longer.
    with listen("127.0.0.1", 0) as listener:
        with socket.create_connection(listener.getsockname()[:2]):
            accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
