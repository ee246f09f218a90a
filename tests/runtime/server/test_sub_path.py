"""The server behind a proxy, below a path of the host name, and for browsers of other origins."""

import argparse
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.middleware.cors import CORSMiddleware

from runtime import Batcher, open_classifier
from runtime.commands.serve import _parser, _with_cors
from runtime.server.api import build_api
from runtime.server.server_config import server_config
from runtime.server.sub_path import SubPath, root_path

PNG = {"Content-Type": "image/png"}
Serving = Callable[..., httpx.Client]


@pytest.fixture(scope="module")
def batcher(toy_bundle: Path) -> Iterator[Batcher]:
    with open_classifier(toy_bundle) as classifier, Batcher(classifier) as batcher:
        yield batcher


@pytest.fixture
def serving() -> Iterator[Serving]:
    with ExitStack() as closing:

        def serve(application: Any, **options: Any) -> httpx.Client:
            server = uvicorn.Server(server_config(application, port=0, lifespan="off", **options))
            thread = threading.Thread(target=server.run)
            thread.start()
            closing.callback(thread.join)
            closing.callback(setattr, server, "should_exit", True)
            while not server.started:
                time.sleep(0.005)
            port = server.servers[0].sockets[0].getsockname()[1]
            return closing.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}"))

        yield serve


@pytest.mark.parametrize("cut_off", [True, False])
@pytest.mark.parametrize("trusted", [True, False])
def test_every_address_is_below_the_root(
    batcher: Batcher, serving: Serving, toy_bundle: Path, cut_off: bool, trusted: bool
) -> None:
    root, headers = "/a/skd", {"X-Forwarded-Prefix": "/a/skd/" if trusted else "/evil"}
    application = SubPath(build_api(batcher), root="" if trusted else root, trust_header=trusted)
    client, sent = serving(application), "" if cut_off else root
    red = (toy_bundle / "examples" / "red.png").read_bytes()
    answer = client.post(f"{sent}/v1/classify", content=red, headers=PNG | headers)
    assert answer.json()["results"][0]["predictions"][0]["label"] == "red"
    assert client.get(f"{sent}/v1/model", headers=headers).status_code == 200
    description = client.get(f"{sent}/openapi.json", headers=headers).json()
    assert description["servers"] == [{"url": root}]  # what the page's calls are made to
    page = client.get(f"{sent}/docs", headers=headers).text
    loaded = re.findall(r'(?:href|src)="(/[^"]+)"|url: \'(/[^\']+)\'', page)
    addresses = [one or other for one, other in loaded]
    assert f"{root}/openapi.json" in addresses
    assert len(addresses) >= 4
    for address in addresses:
        assert address.startswith(f"{root}/")
        found = client.get(address.removeprefix(root) if cut_off else address, headers=headers)
        assert found.status_code == 200, address
    moved = client.get(f"{sent}/docs/", headers=headers)  # the framework's redirect
    assert moved.status_code == 307
    assert httpx.URL(moved.headers["location"]).path == f"{root}/docs"
    assert 'status="200"' in client.get(f"{sent}/metrics", headers=headers).text


@pytest.mark.parametrize("prefix", ["//evil.org", "https://evil.org", '/a"b', "/../x", "/a b", ""])
def test_a_prefix_that_is_no_path_is_not_believed(
    batcher: Batcher, serving: Serving, prefix: str
) -> None:
    client = serving(SubPath(build_api(batcher), root="/own", trust_header=True))
    description = client.get("/openapi.json", headers={"X-Forwarded-Prefix": prefix}).json()
    assert description["servers"] == [{"url": "/own"}]
    plain = serving(SubPath(build_api(batcher), root="", trust_header=True))
    assert "servers" not in plain.get("/openapi.json").json()


def test_senseless_options_are_one_line(
    cli: Callable[..., CompletedProcess[str]], toy_bundle: Path
) -> None:
    assert [root_path(text) for text in ("/skd", "/a/b/", "/")] == ["/skd", "/a/b", ""]
    for text in ("skd", "//x", "/a//b", "/a b", "/a?b", "/..", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a path such as /skd"):
            root_path(text)
    for words in (
        ["--root-path", "skd"],
        ["--cors", "example.org"],
        ["--cors", "https://a.org/path"],
        ["--keep-alive", "0"],
    ):
        finished = cli("serve", toy_bundle, *words)
        assert finished.returncode == 2
        assert len(finished.stderr.splitlines()) == 1
        assert words[0] in finished.stderr


def test_lists_that_are_given_in_parts_are_whole() -> None:
    """The first part would be dropped otherwise, and nobody would say so."""
    parts = ["--cors", "https://a.org", "--names", "a", "--cors", "https://b.org", "--names", "b"]
    given = _parser().parse_args(parts)
    assert (given.cors, given.names) == (["https://a.org", "https://b.org"], ["a", "b"])
    assert (_parser().parse_args([]).cors, _parser().parse_args([]).names) == ([], None)


def test_browsers_of_named_origins_may_call(
    batcher: Batcher, serving: Serving, toy_bundle: Path
) -> None:
    origin = {"Origin": "https://app.example"}
    asked = origin | {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    red = (toy_bundle / "examples" / "red.png").read_bytes()
    closed = serving(build_api(batcher))
    assert "access-control-allow-origin" not in closed.get("/healthz", headers=origin).headers
    application = _with_cors(build_api(batcher), ["https://app.example", "http://localhost:3000"])
    assert isinstance(application, CORSMiddleware)
    client = serving(application)
    allowed = client.options("/v1/classify", headers=asked)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    answer = client.post("/v1/classify", content=red, headers=PNG | origin)
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    broken = client.post("/v1/classify", content=b"", headers=PNG | origin)  # errors, too
    assert (broken.status_code, "access-control-allow-origin" in broken.headers) == (422, True)
    other = {"Origin": "https://other.example"}
    assert "access-control-allow-origin" not in client.get("/healthz", headers=other).headers
    everybody = serving(_with_cors(build_api(batcher), ["*"]))
    assert everybody.get("/healthz", headers=other).headers["access-control-allow-origin"] == "*"


def test_idle_connections_outlast_those_of_load_balancers(
    batcher: Batcher, serving: Serving
) -> None:
    assert server_config(None).timeout_keep_alive > 60
    assert _parser().parse_args([]).keep_alive > 60
    client = serving(build_api(batcher), keep_alive=0.3)
    for pause, kept in ((0.1, True), (0.8, False)):
        before = client.get("/healthz").extensions["network_stream"].get_extra_info("client_addr")
        time.sleep(pause)
        after = client.get("/healthz").extensions["network_stream"].get_extra_info("client_addr")
        assert (before == after) is kept
