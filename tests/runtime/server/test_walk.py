"""How many of our files a request passes on its way to its answer."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from live_server import serving

from runtime import Batcher, open_classifier
from runtime.server.api import build_api

ROOT = Path(__file__).resolve().parents[3]
MOST_FILES = 12  # as before the server's small modules were merged; docs/architecture.md lists them


@contextmanager
def passed_files() -> Iterator[list[str]]:
    """Every file of ours in which a function is called, in any thread, in order."""
    seen: list[str] = []
    before = sys.getprofile()

    def note(frame: FrameType, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(f"{ROOT}/runtime/") and file not in seen:
            seen.append(file)

    threading.setprofile(note)
    try:
        yield seen
    finally:
        threading.setprofile(before)


def test_a_request_passes_few_files_on_its_way_to_the_answer(toy_bundle: Path) -> None:
    content = (toy_bundle / "examples" / "red.png").read_bytes()
    with (
        passed_files() as seen,
        open_classifier(toy_bundle) as classifier,
        Batcher(classifier) as batcher,
        serving(build_api(batcher)) as client,
    ):

        def ask() -> int:
            headers = {"Content-Type": "image/png"}
            return client.post("/v1/classify", content=content, headers=headers).status_code

        ask()
        time.sleep(0.1)  # until every thread waits again
        seen.clear()
        assert ask() == 200
        time.sleep(0.1)
        walk = [str(Path(file).relative_to(ROOT)) for file in seen]
    print("\n".join(walk))
    assert walk[0] == "runtime/server/bounded_http.py"
    assert walk[-1] == "runtime/server/answers.py"
    assert len(walk) <= MOST_FILES
