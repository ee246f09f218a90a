"""Every command and every line of Python in the documents works as it stands there.

`bash` and `python` blocks run in order in a copy of the tree, and `diff` blocks change it.
`console` blocks need a machine that the tests do not have (a GPU, a Jetson) and do not run.
Figures are compared with the raw lines of the command that stands beside them.
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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in DOCUMENTS}
WITH_BLOCKS = [name for name, text in TEXTS.items() if re.search(r"^```(bash|python)$", text, re.M)]
# These run until they are stopped: the test waits for the address that they print to answer.
SERVERS = ("python demo/app.py", "python -m runtime serve")
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")
STORY_SECONDS = 240
USER_TRAINS = "python training/run.py --arch mobilenetv2 --drg --dsr"


def blocks_of(name: str) -> list[tuple[str, str]]:
    """Language and content of each block of code."""
    return re.findall(r"^```(\w+)\n(.*?)^```", TEXTS[name], flags=re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Clone:
    """The tracked tree in a new folder, and the environment in which its files are what runs."""

    folder: Path
    environment: dict[str, str]


@pytest.fixture(scope="module")
def installed(is_installed: bool) -> None:
    if not is_installed:
        pytest.skip("the environment is not up to date: `make install` first")


@pytest.fixture
def clone(
    installed: None,
    workspace: Path,
    tmp_path: Path,
    copy_tree: Callable[[Path], dict[str, str]],
) -> Iterator[Clone]:
    """After `make run`, whose run is a copy, too: a document may change all of it."""
    folder = tmp_path / "skd-edge"
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


@contextmanager
def served(line: str, clone: Clone) -> Iterator[str]:
    """The address of the server that `line` starts, once it answers."""
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
            yield address.group()
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


def run_or_write(block: str, clone: Clone) -> None:
    """Runs Python; or writes the file that its first line names in a comment."""
    named = re.match(r"# ([\w/]+\.py)\n", block)
    file = clone.folder / (named[1] if named else "block.py")
    file.write_text(block, encoding="utf-8")
    if not named:
        run_line(f"{sys.executable} {file}", clone)


def apply(changes: str, folder: Path) -> None:
    """Applies a diff whose parts have no line numbers; each must fit in exactly one place."""
    for part in re.split(r"^--- ", changes, flags=re.MULTILINE)[1:]:
        head, *hunks = re.split(r"^@@\n", part, flags=re.MULTILINE)
        file = folder / head.splitlines()[0].removeprefix("a/")
        text = file.read_text(encoding="utf-8")
        for hunk in hunks:
            lines = hunk.splitlines(keepends=True)
            before = "".join(line[1:] for line in lines if line[0] != "+")
            after = "".join(line[1:] for line in lines if line[0] != "-")
            assert text.count(before) == 1, f"{file.name} has {before!r} not once"
            text = text.replace(before, after)
        file.write_text(text, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.alone
def test_make_run_tells_the_whole_story_soon(installed: None, workspace: Path) -> None:
    story = json.loads((workspace / "story.json").read_text())
    assert story["seconds"] < STORY_SECONDS
    assert "next:" in story["printed"]


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_every_block_runs(name: str, clone: Clone) -> None:
    with ExitStack() as servers:
        for language, block in blocks_of(name):
            if language == "python":
                run_or_write(block, clone)
            elif language == "diff":
                apply(block, clone.folder)
            elif language == "bash":
                run_commands(lines_of(block), clone, servers)


def run_commands(lines: list[str], clone: Clone, servers: ExitStack) -> None:
    """Runs each line of a block; lines with curl ask a server that is started for them."""
    address = None
    for line in lines:
        if line in ("make run", "make test"):  # a test of its own, and this very run
            continue
        if line == USER_TRAINS:  # two minutes: `make run` has run it in an empty folder
            recipe = (clone.folder / "Makefile").read_text(encoding="utf-8")
            assert f"$(BIN)/{line}\n" in recipe
            assert (clone.folder / "runs" / "latest" / "result.json").is_file()
        elif line.startswith("curl"):
            address = address or servers.enter_context(served(f"{SERVERS[1]} --port 0", clone))
            run_line(line.replace("http://127.0.0.1:8000", address), clone)
        elif line.startswith(SERVERS):
            with served(line, clone):
                pass
        else:
            run_line(line, clone)


@pytest.mark.parametrize("name", TEXTS)
def test_blocks_name_their_language(name: str) -> None:
    languages = {"bash", "python", "console", "text", "diff"}
    if name == "clusters.md":  # run by test_clusters.py
        languages |= {"sh", "yaml"}
    if name == "deploying.md":  # run by test_deploying.py
        languages |= {"py", "html", "java", "ini"}
    assert {language for language, _ in blocks_of(name)} <= languages
    assert len(re.findall(r"^```", TEXTS[name], flags=re.MULTILINE)) == 2 * len(blocks_of(name))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_and_section_that_is_named_exists(document: Path) -> None:
    text = TEXTS[document.name]
    named = re.findall(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)", text)
    missing = [name for name in named if not (document.parent / name).exists()]
    in_tables = re.findall(r"^\| `([\w./-]+/[\w.-]+\.(?:py|yaml|md))` \|", text, flags=re.M)
    missing += [name for name in in_tables if not (ROOT / name).exists()]
    in_words = r"`((?:training|export|runtime|demo|tests|docs|results)/[\w./-]+\.[a-z]+|\w+/\w+/)`"
    examples = re.findall(r"^# ([\w/]+\.py)$", text, flags=re.M)  # files that a guide writes
    missing += [
        n for n in re.findall(in_words, text) if n not in examples and not (ROOT / n).exists()
    ]
    for target, section in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", text):
        headings = re.findall(r"^#+ (.*)$", TEXTS[Path(target or document.name).name], flags=re.M)
        if section not in {slug(heading) for heading in headings}:
            missing.append(f"{target}#{section}")
    assert not missing


def slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_table_of_files_is_up_to_date() -> None:
    tables = runpy.run_path(str(ROOT / "tests/project/file_table.py"))
    assert tables["table_in_document"]() == tables["file_table"](), "run `make docs`"


# --- figures ---

NUMBER = re.compile(r"(?<![\w.-])\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?![\w]|\.\d)")
COMMAND = re.compile(r"`((?:python|make) [^`]+)`")


def numbers_in(value: Any) -> Iterator[float]:
    """Every number of a raw entry: of its keys, its values and what was printed."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers_in(key)
            yield from numbers_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers_in(inner)
    elif isinstance(value, str):
        for text in re.findall(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", value):
            yield float(text.replace(",", ""))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield float(value)


def raw_numbers(commands: list[str]) -> list[float]:
    """The numbers of all entries that one of the commands gave; of no command, those by hand."""
    entries = []
    for file in (ROOT / "results").glob("*.json"):
        entries += json.loads(file.read_text(encoding="utf-8"))
    # The commands stand whole in the documents, but for the folder that --out names.
    found = [e for e in entries if e["command"].partition(" --out ")[0] in (commands or [""])]
    if USER_TRAINS in commands:
        lines = (ROOT / "results" / "digits.jsonl").read_text(encoding="utf-8").splitlines()
        found.append(json.loads(lines[-1]))
    return [number for entry in found for number in numbers_in(entry)]


def is_backed(text: str, raw: list[float]) -> bool:
    """Whether a number, as it is written, is one of the raw ones, rounded; or one in per cent."""
    value = float(text.replace(",", ""))
    if "e" in text:
        return any(f"{number:.1e}" == text for number in raw)
    decimals = len(text.partition(".")[2])
    return any(round(scale * number, decimals) == value for number in raw for scale in (1, 100))


def rows_with_figures(name: str) -> Iterator[tuple[str, list[str]]]:
    """Cells with figures, and the commands beside them or in the paragraph above their table."""
    start = TEXTS[name].index("\n## Measured") if name == "README.md" else 0
    above: list[str] = []
    for line in TEXTS[name][start:].splitlines():
        own = COMMAND.findall(line)
        if not line.startswith("|"):
            above = [] if line.startswith("#") else own or above
            continue
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if own:
            figures = [cell for cell in cells[-2:] if not cell.strip("`").startswith(tuple(own))]
            yield from ((cell, own) for cell in figures)
        else:
            yield from ((cell, above) for cell in cells[1:])


@pytest.mark.parametrize("name", ["README.md", "measured.md"])
def test_figures_are_those_of_the_raw_lines(name: str) -> None:
    invented = []
    checked = 0
    for cell, commands in rows_with_figures(name):
        raw = [*raw_numbers(commands), *numbers_in(commands)]
        for number in NUMBER.findall(re.sub(r"`[^`]*`", "", cell)):
            checked += 1
            if not is_backed(number, raw):
                invented.append((number, cell))
    assert not invented
    assert checked > 10
