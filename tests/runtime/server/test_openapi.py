"""Every answer of the API fits its OpenAPI description, whatever is sent (schemathesis)."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import positive_data_acceptance

from runtime import Batcher, open_classifier
from runtime.server.admission import ServerSettings
from runtime.server.api import build_api

TOKEN = "token"
POSITIVE, NEGATIVE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
EXAMPLES = 60


@pytest.fixture(scope="module")
def batcher(toy_bundle: Path) -> Iterator[Batcher]:
    # The API gets a batcher, because schemathesis starts and ends the application for every call.
    with open_classifier(toy_bundle) as classifier, Batcher(classifier) as batcher:
        yield batcher


def description(batcher: Batcher, token: str | None) -> BaseSchema:
    application = build_api(batcher, settings=ServerSettings(token=token))
    return schemathesis.openapi.from_asgi("/openapi.json", application)


@pytest.mark.parametrize(
    ("method", "path", "mode", "token"),
    [
        ("POST", "/v1/classify", POSITIVE, TOKEN),
        ("POST", "/v1/classify", NEGATIVE, None),
        ("GET", "/v1/model", POSITIVE, TOKEN),
        ("GET", "/metrics", POSITIVE, TOKEN),
        ("GET", "/healthz", POSITIVE, TOKEN),
        ("GET", "/readyz", POSITIVE, TOKEN),
        ("POST", "/v2/models/{name}/infer", POSITIVE, TOKEN),
        ("POST", "/v2/models/{name}/infer", NEGATIVE, None),
        ("POST", "/v2/models/{name}/versions/{version}/infer", POSITIVE, TOKEN),
        ("GET", "/v2/models/{name}", POSITIVE, TOKEN),
        ("GET", "/v2/models/{name}/versions/{version}", POSITIVE, TOKEN),
        ("GET", "/v2/models/{name}/ready", POSITIVE, TOKEN),
        ("GET", "/v2/models/{name}/versions/{version}/ready", POSITIVE, TOKEN),
        ("GET", "/v2", POSITIVE, TOKEN),
        ("GET", "/v2/health/live", POSITIVE, TOKEN),
        ("GET", "/v2/health/ready", POSITIVE, TOKEN),
    ],
)
def test_answers_match_the_description(
    batcher: Batcher, method: str, path: str, mode: GenerationMode, token: str | None
) -> None:
    schema = description(batcher, token)
    headers = {"Authorization": f"Bearer {token}"} if token else None
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=EXAMPLES if method == "POST" else 5,
        deadline=None,
        derandomize=True,
        suppress_health_check=[*HealthCheck],
    )
    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    def exercise(case: schemathesis.Case) -> None:
        # Random bytes fit the schema of a body, but are no image. So a 422 is right.
        response = case.call_and_validate(
            headers=headers, excluded_checks=[positive_data_acceptance]
        )
        statuses[response.status_code] += 1

    exercise()
    assert set(statuses) <= {200, 400, 401, 404, 405, 413, 415, 422}


def test_every_route_is_described(batcher: Batcher) -> None:
    schema = description(batcher, None)
    described = {
        (operation.ok().method.upper(), operation.ok().path)
        for operation in schema.get_all_operations()
    }
    assert described == {
        ("POST", "/v1/classify"),
        ("GET", "/v1/model"),
        ("GET", "/metrics"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/v2"),
        ("GET", "/v2/health/live"),
        ("GET", "/v2/health/ready"),
        *(
            (method, path + end)
            for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
            for method, end in (("GET", ""), ("GET", "/ready"), ("POST", "/infer"))
        ),
    }
