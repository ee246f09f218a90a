"""The Open Inference Protocol below /v2, byte by byte; test_tritonclient.py asks with a client."""

import base64
import gzip
import json
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from live_server import serving

from runtime import Batcher, Classifier, open_classifier
from runtime.server import v2_routes, v2_tensors
from runtime.server.admission import ServerSettings
from runtime.server.api import build_api
from runtime.server.sub_path import SubPath

HEADER = "Inference-Header-Content-Length"
MOST = 4


@pytest.fixture(scope="module")
def classifier(toy_bundle: Path) -> Iterator[Classifier]:
    with open_classifier(toy_bundle) as classifier:
        yield classifier


@pytest.fixture(scope="module")
def batcher(classifier: Classifier) -> Iterator[Batcher]:
    with Batcher(classifier) as batcher:
        yield batcher


@pytest.fixture(scope="module")
def client(batcher: Batcher) -> Iterator[httpx.Client]:
    settings = ServerSettings(max_body_bytes=100_000, max_images=MOST)
    with serving(build_api(batcher, settings=settings)) as client:
        yield client


@pytest.fixture(scope="module")
def name(client: httpx.Client) -> str:
    found: str = client.get("/v1/model").json()["name"]
    return found


@pytest.fixture(scope="module")
def images(toy_bundle: Path) -> np.ndarray:
    with np.load(toy_bundle / "holdout.npz") as held:
        return np.array(held["images"][:3])


@pytest.fixture(scope="module")
def files(toy_bundle: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((toy_bundle / "examples").iterdir())]


def infer(
    client: httpx.Client, name: str, request: Any, binary: bytes | None = None, **headers: str
) -> httpx.Response:
    text = json.dumps(request).encode()
    named = {word.replace("_", "-"): value for word, value in headers.items()}
    if binary is not None:
        named = {HEADER: str(len(text))} | named
    body = text + (binary or b"")
    return client.post(f"/v2/models/{name}/infer", content=body, headers=named)


def tensor(images: np.ndarray, **others: Any) -> dict[str, Any]:
    return {"name": "images", "datatype": "UINT8", "shape": list(images.shape), **others}


def pictures(count: int, **others: Any) -> dict[str, Any]:
    return {"name": "encoded", "datatype": "BYTES", "shape": [count, 1], **others}


def prefixed(files: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(file)) + file for file in files)


def rows_in(response: httpx.Response) -> np.ndarray:
    """The probabilities of an answer, JSON or binary."""
    assert response.status_code == 200, response.text
    length = response.headers.get(HEADER)
    if length is None:
        (output,) = response.json()["outputs"]
        values = np.array(output["data"], np.float32)
    else:
        head, rest = response.content[: int(length)], response.content[int(length) :]
        (output,) = json.loads(head)["outputs"]
        assert output["parameters"]["binary_data_size"] == len(rest)
        assert "data" not in output
        values = np.frombuffer(rest, "<f4")
    assert (output["name"], output["datatype"]) == ("probabilities", "FP32")
    return values.reshape(output["shape"])


def is_error(response: httpx.Response, status: int, *words: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    content = response.json()
    assert set(content) == {"error"}
    for word in words:
        assert word in content["error"]


def test_health_and_metadata(client: httpx.Client, name: str, classifier: Classifier) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    server = client.get("/v2").json()
    assert server["name"] == "skd-edge"
    assert set(server["extensions"]) == {"binary_tensor_data", "classification"}
    size, classes = classifier.card.input.size, classifier.card.num_classes
    rows = {"name": "probabilities", "datatype": "FP32", "shape": [-1, classes]}
    wanted = {
        name: {"name": "images", "datatype": "UINT8", "shape": [-1, size, size, 3]},
        f"{name}-encoded": {"name": "encoded", "datatype": "BYTES", "shape": [-1, 1]},
    }
    for known, expected in wanted.items():
        for path in (f"/v2/models/{known}", f"/v2/models/{known}/versions/1"):
            found = client.get(path).json()
            assert (found["name"], found["versions"]) == (known, ["1"])
            assert (found["inputs"], found["outputs"]) == ([expected], [rows])
            assert client.get(f"{path}/ready").json() == {"name": known, "ready": True}
            assert client.head(f"{path}/ready").status_code == 200


def test_every_form_of_a_request_gets_the_runtimes_answer(
    client: httpx.Client, name: str, classifier: Classifier, images: np.ndarray
) -> None:
    expected = classifier.probabilities(images)
    wants = {"outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}]}
    sized = tensor(images, parameters={"binary_data_size": images.nbytes})
    flat, nested = images.ravel().tolist(), images.tolist()
    answers = [
        infer(client, name, {"inputs": [tensor(images, data=flat)]}),
        infer(client, name, {"inputs": [tensor(images, data=nested)], "parameters": None}),
        infer(client, name, {"inputs": [tensor(images, data=flat)], **wants}),
        infer(client, name, {"inputs": [sized]}, images.tobytes()),
        infer(client, name, {"inputs": [sized], **wants}, images.tobytes()),
        infer(
            client,
            name,
            {"inputs": [sized], "parameters": {"binary_data_output": True}},
            images.tobytes(),
        ),
        client.post(f"/v2/models/{name}/infer", content=images.tobytes(), headers={HEADER: "0"}),
    ]
    for answer in answers:
        np.testing.assert_array_equal(rows_in(answer), expected)
    assert [HEADER in answer.headers for answer in answers] == [
        False,
        False,
        True,
        False,
        True,
        True,
        False,
    ]
    versioned = client.post(
        f"/v2/models/{name}/versions/1/infer",
        json={"id": "seven", "inputs": [tensor(images[:1], data=images[:1].ravel().tolist())]},
    )
    np.testing.assert_array_equal(rows_in(versioned), classifier.probabilities(images[:1]))
    told = versioned.json()
    assert (told["model_name"], told["model_version"], told["id"]) == (name, "1", "seven")


def test_encoded_pictures(
    client: httpx.Client, name: str, classifier: Classifier, files: list[bytes]
) -> None:
    prepared = np.stack([classifier.prepare(file) for file in files])
    expected = classifier.probabilities(prepared)
    encoded, texts = f"{name}-encoded", [base64.b64encode(file).decode() for file in files]
    content = prefixed(files)
    sized = pictures(3, parameters={"binary_data_size": len(content)})
    one_axis = {**sized, "shape": [3]}
    column = pictures(3, data=[[text] for text in texts])
    answers = [
        infer(client, encoded, {"inputs": [pictures(3, data=texts)]}),
        infer(client, encoded, {"inputs": [column]}),
        infer(client, encoded, {"inputs": [sized]}, content),
        infer(client, encoded, {"inputs": [one_axis]}, content),
    ]
    for answer in answers:
        np.testing.assert_array_equal(rows_in(answer), expected)
    whole = client.post(f"/v2/models/{encoded}/infer", content=files[0], headers={HEADER: "0"})
    np.testing.assert_array_equal(rows_in(whole), expected[:1])


def test_the_most_probable_classes_as_texts(
    client: httpx.Client, name: str, classifier: Classifier, images: np.ndarray
) -> None:
    rows, names = classifier.probabilities(images), classifier.card.class_names
    expected = [
        f"{row[index]:.6f}:{index}:{names[index]}" for row in rows for index in np.argsort(-row)[:2]
    ]
    for binary in (False, True):
        parameters = {"classification": 2, "binary_data": binary}
        wants = [{"name": "probabilities", "parameters": parameters}]
        request = {"inputs": [tensor(images, data=images.ravel().tolist())], "outputs": wants}
        answer = infer(client, name, request)
        length = int(answer.headers.get(HEADER, len(answer.content)))
        (output,) = json.loads(answer.content[:length])["outputs"]
        assert (output["datatype"], output["shape"]) == ("BYTES", [3, 2])
        if binary:
            assert answer.content[length:] == prefixed([text.encode() for text in expected])
        else:
            assert output["data"] == expected
    many = {"name": "probabilities", "parameters": {"classification": 99}}
    request = {"inputs": [tensor(images, data=images.ravel().tolist())], "outputs": [many]}
    assert infer(client, name, request).json()["outputs"][0]["shape"] == [3, len(names)]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_bodies(
    client: httpx.Client, name: str, classifier: Classifier, images: np.ndarray, encoding: str
) -> None:
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    sized = tensor(images, parameters={"binary_data_size": images.nbytes})
    text = json.dumps({"inputs": [sized]}).encode()
    path, headers = f"/v2/models/{name}/infer", {"Content-Encoding": encoding}
    binary = {HEADER: str(len(text)), **headers}
    answer = client.post(path, content=pack(text + images.tobytes()), headers=binary)
    np.testing.assert_array_equal(rows_in(answer), classifier.probabilities(images))
    is_error(client.post(path, content=pack(text)[:-6], headers=headers), 400, "ends early")
    is_error(client.post(path, content=b"{}", headers=headers), 400, encoding)
    bomb = pack(bytes(10_000_000))
    is_error(client.post(path, content=bomb, headers=headers), 413, "100000 bytes")
    other = client.post(path, content=b"{}", headers={"Content-Encoding": "br"})
    is_error(other, 415, "'br'", "gzip")


def bad_requests(images: np.ndarray) -> list[tuple[Any, tuple[str, ...]]]:
    flat = images.ravel().tolist()
    good = tensor(images, data=flat)
    size = images.shape[1]
    return [
        ({}, ("inputs",)),
        ([], ("object",)),
        ({"inputs": []}, ("one input", "images")),
        ({"inputs": [good, good]}, ("one input",)),
        ({"inputs": [good | {"name": "pixels"}]}, ("pixels", "images")),
        ({"inputs": [good | {"datatype": "FP32"}]}, ("FP32", "UINT8")),
        ({"inputs": [good | {"shape": [len(flat)]}]}, (f"[N, {size}, {size}, 3]",)),
        ({"inputs": [good | {"shape": [0, size, size, 3], "data": []}]}, ("N >= 1",)),
        ({"inputs": [good | {"shape": [-3, size, size, 3]}]}, ("N >= 1",)),
        ({"inputs": [good | {"data": flat[1:]}]}, (str(len(flat) - 1), str(len(flat)))),
        ({"inputs": [good | {"data": [256, *flat[1:]]}]}, ("0 to 255",)),
        ({"inputs": [good | {"data": [-1, *flat[1:]]}]}, ("0 to 255",)),
        ({"inputs": [good | {"data": [0.5, *flat[1:]]}]}, ("0 to 255",)),
        ({"inputs": [good | {"data": [True, *flat[1:]]}]}, ("0 to 255",)),
        ({"inputs": [good | {"data": images.transpose(0, 3, 1, 2).tolist()}]}, ("nested",)),
        ({"inputs": [good | {"data": [flat]}]}, ("nested",)),
        (
            {"inputs": [good | {"data": [*images[:2].tolist(), images[2].ravel().tolist()]}]},
            ("nested",),
        ),
        ({"inputs": [good | {"data": [[[[0.5]]], *flat[1:]]}]}, ("nested",)),
        ({"inputs": [good | {"data": ["1,1", *flat[2:]]}]}, ("0 to 255",)),
        ({"inputs": [good | {"data": ["[1", *flat[2:], "]"]}]}, ("nested",)),
        ({"inputs": [tensor(images)]}, ("neither data nor",)),
        ({"inputs": [good | {"parameters": {"shared_memory_region": "x"}}]}, ("memory",)),
        ({"inputs": [good], "outputs": [{"name": "logits"}]}, ("logits", "probabilities")),
        ({"inputs": [good], "outputs": [{"name": "probabilities"}] * 2}, ("2 times",)),
        ({"inputs": [good], "parameters": {"sequence_id": 4}}, ("sequence_id",)),
        ({"inputs": [good], "parameters": {"timeout": 10**400}}, ("timeout", "microseconds")),
        ({"inputs": [good], "parameters": {"timeout": -1}}, ("timeout", "microseconds")),
        (
            {
                "inputs": [good],
                "outputs": [{"name": "probabilities", "parameters": {"classification": -1}}],
            },
            ("classification",),
        ),
    ]


def test_bad_requests_are_errors_of_the_protocol(
    client: httpx.Client, name: str, images: np.ndarray
) -> None:
    for request, words in bad_requests(images):
        is_error(infer(client, name, request), 400, *words)
    path = f"/v2/models/{name}/infer"
    for body in (b"", b"{", b"\xff", b'{"inputs": ' + b"[" * 50_000, b'{"id": "\xff"}'):
        is_error(client.post(path, content=body), 400)
    for length in ("-1", "x", "9" * 30, "5000", "0x1", "²"):
        sent = client.post(path, content=b"{}", headers={HEADER: length.encode()})
        is_error(sent, 400, "Inference-Header-Content-Length")
    good = tensor(images, parameters={"binary_data_size": images.nbytes})
    is_error(infer(client, name, {"inputs": [good]}, images.tobytes()[1:]), 400, "follow")
    is_error(infer(client, name, {"inputs": [good]}, images.tobytes() + b"1"), 400, "follow")
    both = good | {"data": [1]}
    is_error(infer(client, name, {"inputs": [both]}, images.tobytes()), 400, "both data")
    plain = tensor(images, data=images.ravel().tolist())
    is_error(infer(client, name, {"inputs": [plain]}, b"123"), 400, "3 bytes follow")
    small = tensor(images[:2], parameters={"binary_data_size": images.nbytes})
    is_error(infer(client, name, {"inputs": [small]}, images.tobytes()), 400, "shape needs")


@pytest.mark.parametrize("form", ["flat", "nested", "spaced", "gzip", "binary"])
def test_a_large_body_is_read_beside_the_event_loop(
    batcher: Batcher,
    classifier: Classifier,
    images: np.ndarray,
    name: str,
    form: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The event loop would answer nobody meanwhile; numpy took 3 s for the JSON of 32 images."""
    readers: list[str] = []
    read = v2_routes.images_in

    def noted(*arguments: Any, **named: Any) -> np.ndarray:
        readers.append(threading.current_thread().name)
        return read(*arguments, **named)

    monkeypatch.setattr(v2_routes, "images_in", noted)
    monkeypatch.setattr(v2_tensors, "_PIECE", 1000)
    count = 120
    many = (
        np.repeat(images, count // len(images), axis=0)
        + np.arange(count, dtype=np.uint8)[:, None, None, None]
    )
    values = many.tolist() if form in ("nested", "spaced") else many.ravel().tolist()
    sized = tensor(many, parameters={"binary_data_size": many.nbytes})
    request = {"inputs": [sized if form == "binary" else tensor(many, data=values)]}
    text = json.dumps(request, indent=1 if form == "spaced" else None).encode()
    body, headers = text, {}
    if form == "binary":
        body, headers = text + many.tobytes(), {HEADER: str(len(text))}
    if form == "gzip":
        body, headers = gzip.compress(text), {"Content-Encoding": "gzip"}
    with serving(build_api(batcher, settings=ServerSettings(max_images=count))) as client:
        path = f"/v2/models/{name}/infer"
        answer = client.post(path, content=body, headers=headers)
        np.testing.assert_allclose(rows_in(answer), classifier.probabilities(many), atol=1e-6)
        small = infer(client, name, {"inputs": [tensor(images, data=images.tolist())]})
        assert small.status_code == 200
    assert [reader.startswith("v2-bodies") for reader in readers] == [True, False]


def test_bad_pictures_are_errors_of_the_protocol(
    client: httpx.Client, name: str, files: list[bytes]
) -> None:
    encoded = f"{name}-encoded"
    texts = [base64.b64encode(file).decode() for file in files]
    for data, words in (
        (["not base64", *texts[1:]], ("base64",)),
        (texts[:2], ("2 pictures", "says 3")),
        ([1, 2, 3], ("base64",)),
        ([*texts[:2], base64.b64encode(b"text").decode()], ("picture 2", "not a readable image")),
    ):
        is_error(infer(client, encoded, {"inputs": [pictures(3, data=data)]}), 400, *words)

    def sent(content: bytes) -> httpx.Response:
        sized = pictures(1, parameters={"binary_data_size": len(content)})
        return infer(client, encoded, {"inputs": [sized]}, content)

    is_error(sent(prefixed(files[:1])[:-1]), 400, "element 0")
    is_error(sent(prefixed(files[:1]) + b"123"), 400, "within the length")
    is_error(sent(b"\xff\xff\xff\xff"), 400, "4294967295")
    is_error(sent(prefixed([b""])), 400, "picture 0", "is empty")
    wrong = pictures(1, data=texts[:1]) | {"shape": [1, 1, 1]}
    is_error(infer(client, encoded, {"inputs": [wrong]}), 400, "[N, 1]")


def test_limits_and_unknown_things(client: httpx.Client, name: str, images: np.ndarray) -> None:
    five = np.repeat(images[:1], MOST + 1, axis=0)
    sized = tensor(five, parameters={"binary_data_size": five.nbytes})
    is_error(infer(client, name, {"inputs": [sized]}, five.tobytes()), 413, "5 images", "4")
    path = f"/v2/models/{name}/infer"
    is_error(client.post(path, content=bytes(100_001)), 413, "100000 bytes")
    unknown = "/v2/models/nobody"
    for answer in (client.get(unknown), client.get(f"{unknown}/ready")):
        is_error(answer, 404, "nobody", name, f"{name}-encoded")
    is_error(client.post(f"{unknown}/infer", content=b"{}"), 404, "nobody")
    for version in ("2", "0", "-1", "x", "9" * 30):
        is_error(client.get(f"/v2/models/{name}/versions/{version}"), 404, "version")
    is_error(client.get("/v2/nothing"), 404)
    is_error(client.get(path), 405)
    # The old protocol keeps the form of its errors.
    assert client.get("/v1/nothing").headers["content-type"] == "application/problem+json"


def test_the_token_guards_all_but_health(batcher: Batcher, images: np.ndarray) -> None:
    with serving(build_api(batcher, settings=ServerSettings(token="secret"))) as client:
        bearer = {"Authorization": "Bearer secret"}
        name = client.get("/v1/model", headers=bearer).json()["name"]
        for path in ("/v2", f"/v2/models/{name}", f"/v2/models/{name}-encoded/ready"):
            is_error(client.get(path), 401, "bearer token")
            assert client.get(path).headers["www-authenticate"] == "Bearer"
            assert client.get(path, headers=bearer).status_code == 200
        request = {"inputs": [tensor(images, data=images.ravel().tolist())]}
        is_error(infer(client, name, request), 401)
        assert infer(client, name, request, Authorization="Bearer secret").status_code == 200
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert client.get(path).status_code == 200


def test_a_closed_server_and_metrics(classifier: Classifier, images: np.ndarray) -> None:
    batcher = Batcher(classifier)
    with serving(SubPath(build_api(batcher), root="/skd")) as client:
        name = client.get("/v1/model").json()["name"]
        request = {"inputs": [tensor(images, data=images.ravel().tolist())]}
        assert infer(client, name, request).status_code == 200
        is_error(infer(client, name, {}), 400)
        batcher.close()
        for answer in (
            infer(client, name, request),
            client.get("/v2/health/ready"),
            client.get(f"/skd/v2/models/{name}/ready"),
        ):
            is_error(answer, 503, "closed")
            assert int(answer.headers["retry-after"]) >= 1
        text = client.get("/metrics").text
        for status in (200, 400, 503):
            assert f'skd_edge_requests_total{{status="{status}"}} 1.0' in text
        assert "skd_edge_batch_size_sum 3.0" in text
