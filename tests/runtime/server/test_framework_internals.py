"""Parts of uvicorn and FastAPI that the server uses, and that are not documented.

A test here fails when a new version changes such a part. Then read `bounded_http.py` and
`routes.py` beside the new source, mend what must be mended, and write the new facts down here.
"""

import hashlib
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.routing import APIRoute, APIRouter
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from runtime.server.bounded_http import BoundedHttpProtocol, GatheredWrites
from runtime.server.routes import LeanRoute

ROOT = Path(__file__).resolve().parents[3]
# SHA-256 of the overridden methods' code, equal in uvicorn 0.34, 0.39, 0.44, 0.49 and 0.54.
OVERRIDDEN = {
    "connection_lost": "5ed5a3e443ec794e",
    "connection_made": "e3b2039873e8c06c",
    "data_received": "f83481cc3c26cebf",
    "eof_received": "148653f3312bd21b",
    "on_body": "54a62c7f3ac29355",
    "on_message_complete": "13556ee85b3b8cc4",
    "send_400_response": "38c8cc09171df213",
}
# Its code differs between those versions, but not in the part that we need.
ALSO_OVERRIDDEN = "on_headers_complete"
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
}


def code_digest(function: Callable[..., object]) -> str:
    """The first 16 digits of the SHA-256 of a function's source, without comments and spaces."""
    source = textwrap.dedent(inspect.getsource(function))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    code = " ".join(token.string for token in tokens if token.type not in NO_CODE)
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def own_names(kind: type) -> set[str]:
    """The names that a class defines itself, also those that its methods set on `self`."""
    assigned = re.findall(r"self\.(\w+)(?::[^=\n]+|, \w+)? = ", inspect.getsource(kind))
    return {*vars(kind), *assigned} - {*vars(object), "__module__", "__dict__", "__weakref__"}


def test_the_overridden_methods_of_uvicorn_are_the_known_ones() -> None:
    found = {name: code_digest(getattr(HttpToolsProtocol, name)) for name in OVERRIDDEN}
    assert found == OVERRIDDEN
    head = inspect.getsource(getattr(HttpToolsProtocol, ALSO_OVERRIDDEN))
    assert "self.cycle = RequestResponseCycle(" in head
    assert "self.pipeline.appendleft((self.cycle, app))" in head
    assert [*inspect.signature(HttpToolsProtocol.on_headers_complete).parameters] == ["self"]


def test_nothing_else_of_uvicorns_protocol_is_overridden() -> None:
    overridden = own_names(BoundedHttpProtocol) & own_names(HttpToolsProtocol)
    assert overridden == {*OVERRIDDEN, ALSO_OVERRIDDEN, "parser", "cycle"}


def test_the_attributes_that_we_read_of_uvicorn_are_there() -> None:
    read = {"transport", "loop", "cycle", "parser", "pipeline", "scope", "url", "headers"}
    assert read | {"_unset_keepalive_if_required"} <= own_names(HttpToolsProtocol)
    read = {"response_complete", "response_started", "more_body", "keep_alive", "disconnected"}
    read |= {"message_event"}
    assert read <= own_names(RequestResponseCycle)


def test_the_parser_is_made_as_uvicorn_makes_it() -> None:
    source = inspect.getsource(HttpToolsProtocol.__init__)
    assert "self.parser = httptools.HttpRequestParser(self)" in source
    assert "set_dangerous_leniencies(lenient_data_after_close=True)" in source


def test_uvicorn_writes_and_closes_in_the_two_ways_that_are_gathered() -> None:
    source = inspect.getsource(inspect.getmodule(HttpToolsProtocol))
    called = set(re.findall(r"\btransport\.(\w+)\(", source))
    assert called <= {"write", "close", "is_closing", "get_extra_info", "set_protocol"}
    assert {"write", "close"} <= {*vars(GatheredWrites)}


def test_a_route_may_have_an_application_of_its_own() -> None:
    assert "self.app = " in inspect.getsource(APIRoute.__init__)
    assert "await self.app(scope, receive, send)" in inspect.getsource(Route.handle)
    assert LeanRoute.__bases__ == (APIRoute,)
    assert "route_class_override" in inspect.signature(APIRouter.add_api_route).parameters


@pytest.mark.parametrize(("package", "bound"), [("uvicorn", "<0.55"), ("gradio", "<7")])
def test_versions_that_nobody_has_looked_at_are_not_installed(package: str, bound: str) -> None:
    project = (ROOT / "pyproject.toml").read_text()
    (requirement,) = re.findall(rf'"{package}>=([^"]+)"', project)
    assert requirement.endswith(f",{bound}")
