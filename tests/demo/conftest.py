"""The page as a subprocess, and a browser. A test fails on any request to another host."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

APP = Path(__file__).resolve().parents[2] / "demo" / "app.py"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",  # a green test picture as the webcam
    "--use-fake-ui-for-media-stream",
    "--host-resolver-rules=MAP page.test 127.0.0.1",  # not localhost: less is allowed there
]
START_SECONDS = 90
WAIT_MS = 15_000
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}


@dataclass(frozen=True)
class Served:
    """A running page."""

    url: str
    folder: Path  # its private temporary folder
    printed: list[str]


@contextmanager
def serve_page(
    *arguments: str | Path,
    cwd: Path,
    temporary: Path,
    forged: bool = False,
    **environment: str,
) -> Iterator[Served]:
    """Runs `python ARGUMENTS` until it prints its address; ends it by SIGTERM, as for a service.

    It must not log a traceback, whatever its visitors do. Only `forged` calls may cause one.
    """
    temporary.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        printed: list[str] = []
        started = time.monotonic()
        for line in process.stdout:
            printed.append(line.rstrip())
            if address := re.search(r"page: (http://[\w.:\[\]]+)", line):
                break
            assert time.monotonic() - started < START_SECONDS, printed
        else:
            raise AssertionError(f"the page did not start: {printed}")
        (folder,) = temporary.iterdir()
        yield Served(address[1], folder, printed)
    finally:
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0, rest
    assert list(temporary.iterdir()) == [], "the page left files behind"
    assert forged or "Traceback" not in rest, rest


@pytest.fixture(scope="session", name="serve_page")
def _serve_page() -> Callable[..., Any]:
    return serve_page


@pytest.fixture(scope="session")
def toy_page(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page on the toy bundle, fp32 and fp16."""
    folder = tmp_path_factory.mktemp("toy-page")
    arguments = (APP, toy_bundle, "--port", "0")
    with serve_page(*arguments, cwd=folder, temporary=folder / "tmp") as served:
        yield served


@pytest.fixture(scope="module")
def models(toy_bundle: Path) -> Iterator[Any]:
    """The toy bundle as the page offers it, fp32 and fp16."""
    from demo.service.models import Models

    opened = Models([toy_bundle])
    yield opened
    opened.close()


@dataclass(eq=False)
class Visit:
    """One browser tab of one user, with its requests and the errors in its console."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    forgiven: tuple[str, ...] = ()  # how complaints begin that may come at any moment

    def upload(self, *files: Path) -> None:
        self.page.set_input_files("#picture-input input[type=file]", files)

    def label(self) -> str:
        """The label of the answer; waits until there is one."""
        return self.page.inner_text("[data-testid=label]")

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium. Tests are skipped where there is none.

    One a module: Playwright keeps an event loop running in this thread, in which no other test
    could run its own.
    """
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    """Opens a page as a new user. At the end, no visit may have asked another host for anything."""
    visits: list[tuple[str, Visit]] = []
    contexts = []

    def open_page(url: str, **options: Any) -> Visit:
        context = browser.new_context(**{"viewport": DESKTOP, **options})
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        found = Visit(context.new_page())
        visits.append((url, found))
        context.on("request", lambda request: found.requests.append(request.url))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.on("console", lambda message: _note(found, message))
        found.page.goto(url)
        return found

    yield open_page
    for context in contexts:
        context.close()
    for url, found in visits:
        hosts = {urlsplit(address).netloc for address in found.requests} - {""}  # "": data, blob
        assert hosts == {urlsplit(url).netloc}, found.requests
        assert [said for said in found.complaints if not said.startswith(found.forgiven)] == []


def _note(found: Visit, message: Any) -> None:
    if message.type == "error":
        found.complaints.append(message.text)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """red.png, green.jpg and blue.webp of 320x240 pixels, and files that are no pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(1)
    for channel, name in enumerate(("red.png", "green.jpg", "blue.webp")):
        pixels = rng.integers(0, 120, (240, 320, 3), dtype=np.uint8)
        pixels[..., channel] += 120
        Image.fromarray(pixels).save(folder / name)
    (folder / "text.jpg").write_text("not a picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.jpg").write_bytes((folder / "green.jpg").read_bytes()[:300])
    (folder / "huge.jpg").write_bytes(bytes(17 << 20))
    (folder / "notes.txt").write_text("plain text")
    return folder


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go: the folder in the variable SKD_EDGE_SCREENSHOTS, or a temporary one."""
    named = os.environ.get("SKD_EDGE_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
