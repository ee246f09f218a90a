"""The page below a path of the host name, behind proxies that leave the path or cut it off."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

APP = Path(__file__).resolve().parents[2] / "demo" / "app.py"
pytestmark = pytest.mark.usefixtures("browser")


@pytest.mark.parametrize(
    "options",
    [["--root-path", "/a/skd"], ["--root-path", "/other", "--trust-forwarded-prefix"]],
    ids=["root path", "header"],
)
def test_the_page_works_below_a_path(
    options: list[str],
    serve_page: Callable[..., Any],
    visit: Callable[..., Any],
    toy_bundle: Path,
    pictures: Path,
    tmp_path: Path,
) -> None:
    arguments = (APP, toy_bundle, "--api", "--port", "0", *options)
    told = {"X-Forwarded-Prefix": "/a/skd"} if "--trust-forwarded-prefix" in options else {}
    with serve_page(*arguments, cwd=tmp_path, temporary=tmp_path / "tmp") as served:
        tab = visit(f"{served.url}/a/skd/", extra_http_headers=told)
        tab.upload(pictures / "red.png")
        assert tab.label() == "red"
        asked = [address for address in tab.requests if address.startswith(served.url)]
        assert len(asked) > 10
        outside = [address for address in asked if not address.startswith(f"{served.url}/a/skd/")]
        assert outside == []
        tab.page.context.close()  # its stream of events would hold the server
        # A proxy that cuts the path off, and names the host that visitors see.
        headers = told | {"X-Forwarded-Host": "example.org", "X-Forwarded-Proto": "https"}
        page = httpx.get(f"{served.url}/", headers=headers).text
        (root,) = set(re.findall(r'"root":"([^"]*)"', page))
        assert root in ("https://example.org/a/skd", "/a/skd")
        config = httpx.get(f"{served.url}/config", headers=headers).json()
        assert config["root"] == "https://example.org/a/skd"
        for sent in ("", "/a/skd"):
            api = httpx.get(f"{served.url}{sent}/openapi.json", headers=headers)
            assert api.json()["servers"] == [{"url": "/a/skd"}]
            refused = httpx.get(f"{served.url}{sent}/gradio_api/info", headers=headers)
            assert refused.status_code == 404  # the guard still stands before it
