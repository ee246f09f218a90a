"""HTTP says whether an answer is accepted, by both protocols, and counts those that are not."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from live_server import serving
from PIL import Image

from runtime import Classifier, open_classifier
from runtime.model.card import Threshold
from runtime.server.api import build_api

THRESHOLD = Threshold(probability=0.8, max_error=0.05, confidence=0.9, coverage=0.834, images=200)


@pytest.fixture
def classifier(toy_bundle: Path) -> Iterator[Classifier]:
    with open_classifier(toy_bundle) as classifier:
        yield classifier


@pytest.fixture
def pictures(toy_bundle: Path) -> list[bytes]:
    """A red one, of which the toy is sure, and a grey one."""
    file = io.BytesIO()
    Image.new("RGB", (32, 32), (128, 128, 128)).save(file, "PNG")
    return [(toy_bundle / "examples" / "red.png").read_bytes(), file.getvalue()]


def classify(client: httpx.Client, pictures: list[bytes]) -> list[dict[str, object]]:
    forms = [("images", (f"{i}.png", content)) for i, content in enumerate(pictures)]
    found: list[dict[str, object]] = client.post("/v1/classify", files=forms).json()["results"]
    return found


def refusals(client: httpx.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    (value,) = [line.split()[-1] for line in lines if line.startswith("skd_edge_refusals{")]
    return float(value)


def test_answers_say_whether_they_are_accepted_and_refusals_are_counted(
    classifier: Classifier, pictures: list[bytes]
) -> None:
    classifier.threshold = THRESHOLD
    with serving(build_api(classifier)) as client:
        assert refusals(client) == 0
        assert [r["accepted"] for r in classify(client, pictures)] == [True, False]
        broken, grey = classify(client, [b"broken", pictures[1]])
        assert ("accepted" not in broken, grey["accepted"]) == (True, False)
        assert refusals(client) == 2
        model = client.get("/v1/model").json()
        assert (model["threshold"]["probability"], model["no_threshold"]) == (0.8, None)
        tensor = {
            "name": "encoded",
            "datatype": "BYTES",
            "shape": [2],
            "data": [base64.b64encode(content).decode() for content in pictures],
        }
        answer = client.post(
            f"/v2/models/{model['name']}-encoded/infer", json={"inputs": [tensor]}
        ).json()
        assert answer["parameters"] == {"accepted": "true,false"}
        assert refusals(client) == 3


def test_without_a_threshold_nothing_is_accepted_or_refused(
    classifier: Classifier, pictures: list[bytes]
) -> None:
    with serving(build_api(classifier)) as client:
        assert all("accepted" not in result for result in classify(client, pictures))
        assert refusals(client) == 0
        assert client.get("/v1/model").json()["threshold"] is None
