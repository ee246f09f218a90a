"""Every command and every line of Python in the README works as it stands there.

`bash` and `python` blocks run in order in a copy of the tree; `console` blocks need a machine that
the tests do not have (a GPU, a Jetson) and are only checked for naming files that exist.
"""

import json
import re
import runpy
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
# These run until they are stopped: the test waits for the address that they print to answer.
SERVERS = ("python demo/app.py", "python -m runtime serve")
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")
STORY_SECONDS = 240
USER_TRAINS = "python training/run.py --arch mobilenetv2 --drg --dsr"


@dataclass(frozen=True)
class Clone:
    """The tracked tree in a new folder, and the environment in which its files are what runs."""

    folder: Path
    environment: dict[str, str]


@pytest.fixture(scope="module")
def installed(is_installed: bool) -> None:
    if not is_installed:
        pytest.skip("the environment is not up to date: `make install` first")


@pytest.fixture(scope="module")
def clone(
    installed: None,
    workspace: Path,
    tmp_path_factory: pytest.TempPathFactory,
    copy_tree: Callable[[Path], dict[str, str]],
) -> Iterator[Clone]:
    """After `make run`, whose run is a copy, too: engines may be added to it."""
    folder = tmp_path_factory.mktemp("clone") / "skd-edge"
    environment = copy_tree(folder)
    shutil.copytree(workspace / "runs", folder / "runs", symlinks=True)
    yield Clone(folder, environment)
    shutil.rmtree(folder)


def lines_of(block: str) -> list[str]:
    joined = block.replace("\\\n", " ")
    lines = (line.split("  #")[0].strip() for line in joined.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def status_within(seconds: float, url: str) -> int:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return int(answer.status)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def serve_until_it_answers(line: str, clone: Clone) -> None:
    with subprocess.Popen(
        line.split(),
        cwd=clone.folder,
        env=clone.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            printed = ""
            for output in process.stdout:
                printed += output
                if address := ADDRESS.search(output):
                    break
            else:
                raise AssertionError(f"{line} ended: {printed}")
            path = "/" if "demo" in line else "/healthz"
            assert status_within(30, address.group() + path) == 200
        finally:
            process.terminate()


def run_line(line: str, clone: Clone) -> str:
    finished = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line],
        cwd=clone.folder,
        env=clone.environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert finished.returncode == 0, f"{line}\n{finished.stdout}\n{finished.stderr}"
    return finished.stdout


@pytest.mark.slow
@pytest.mark.alone
def test_make_run_tells_the_whole_story_soon(installed: None, workspace: Path) -> None:
    story = json.loads((workspace / "story.json").read_text())
    assert story["seconds"] < STORY_SECONDS
    assert "next:" in story["printed"]


@pytest.mark.slow
def test_every_block_runs(clone: Clone) -> None:
    recipe = (clone.folder / "Makefile").read_text(encoding="utf-8")
    for language, block in BLOCKS:
        if language == "python":
            script = clone.folder / "block.py"
            script.write_text(block, encoding="utf-8")
            run_line(f"{sys.executable} {script}", clone)
        if language != "bash":
            continue
        for line in lines_of(block):
            if line in ("make run", "make test"):  # the test above, and this very run
                continue
            if line == USER_TRAINS:  # two minutes: `make run` has run it in an empty folder
                assert f"$(BIN)/{line}\n" in recipe
                assert (clone.folder / "runs" / "latest" / "result.json").is_file()
                continue
            if line.startswith(SERVERS):
                serve_until_it_answers(line, clone)
                continue
            run_line(line, clone)


def test_blocks_name_their_language() -> None:
    assert BLOCKS
    assert {language for language, _ in BLOCKS} <= {"bash", "python", "console", "text", "mermaid"}
    fences = re.findall(r"^```", README, flags=re.MULTILINE)
    assert len(fences) == 2 * len(BLOCKS)


def test_every_path_in_the_readme_exists() -> None:
    named = re.findall(r"\]\((?!https?:|#)([^)#]+)\)", README)
    named += re.findall(r"^\| `([\w./-]+\.(?:py|yaml|md))` \|", README, flags=re.MULTILINE)
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_table_of_files_is_up_to_date() -> None:
    tables = runpy.run_path(str(ROOT / "tests/project/readme_files.py"))
    assert tables["table_in_readme"]() == tables["file_table"](), "run `make readme`"
