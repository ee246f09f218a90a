"""What the documents list is what the code has: extras, rooms, formats, routes without a token."""

import re
from importlib.metadata import metadata
from pathlib import Path

import pytest
from live_server import serving

from runtime import open_classifier
from runtime.images import image_formats
from runtime.server.admission import ServerSettings
from runtime.server.api import build_api

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("demo", "export", "runtime", "training")


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def part_of(name: str, start: str, end: str) -> str:
    """What a document says from `start` to `end`."""
    found = re.search(f"{start}.*?(?={end})", text_of(name), re.DOTALL)
    assert found is not None, f"{name} has no {start!r}"
    return found.group()


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("README.md", "The extras ", "add\nwhat"),
        ("docs/serving.md", r"\| extra \|", "\n\n"),
    ],
)
def test_every_extra_is_named(name: str, start: str, end: str) -> None:
    listed = part_of(name, start, end)
    if name != "README.md":
        listed = "\n".join(line.split("|")[1] for line in listed.splitlines())
    extras = set(metadata("skd-edge").get_all("Provides-Extra") or ())
    assert set(re.findall(r"`(\w+)`", listed)) | {"all"} == extras


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_is_named(package: str) -> None:
    table = part_of("docs/architecture.md", rf"\| `{package}/` \| knows \|", "\n\n")
    rooms = {file.parent.name for file in (ROOT / package).glob("*/__init__.py")}
    assert set(re.findall(r"`(\w+)/`", table)) - {package} == rooms


def test_every_format_that_is_decoded_is_named() -> None:
    promised = part_of("SECURITY.md", r"- \*\*Hostile images", " are tried")
    formats = {name for _, name in image_formats._READ}
    assert formats == set(re.findall("|".join(formats), promised))


def test_what_is_open_without_the_token_is_named(toy_bundle: Path) -> None:
    with (
        open_classifier(toy_bundle) as classifier,
        serving(build_api(classifier, settings=ServerSettings(token="secret"))) as client,
    ):
        routes = client.get("/openapi.json").json()["paths"]
        answers = {
            path: client.request(method, path.replace("{version}", "1")).status_code
            for path, methods in routes.items()
            for method in methods
        }
        assert client.get("/docs").status_code == 200
    opened = {path for path, status in answers.items() if status != 401}
    assert len(opened) < len(answers)
    for said in (
        part_of("SECURITY.md", r"- The API's description", " are open"),
        part_of("docs/serving.md", "Open to all are", "\n\n"),
    ):
        assert set(re.findall(r"`(/[\w./]+)`", said)) == opened | {"/docs", "/openapi.json"}
