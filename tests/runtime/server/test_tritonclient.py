"""Triton's own HTTP client (`tritonclient[http]`) asks our server, and gets the runtime's answers.

The client lives in an environment of its own, which is kept in the temporary folder between runs.
"""

import subprocess
from pathlib import Path

import numpy as np
from live_server import serving

from runtime import Batcher, open_classifier
from runtime.server.admission import ServerSettings
from runtime.server.api import build_api

ASK = """
import sys
from pathlib import Path
import numpy as np
import tritonclient.http as triton
url, name, source, pictures, target = sys.argv[1:]
images = np.load(source)["images"]
files = [path.read_bytes() for path in sorted(Path(pictures).iterdir())]
token = {"Authorization": "Bearer secret"}  # copied for each call: the client adds to it
client = triton.InferenceServerClient(url)
assert client.is_server_live() and client.is_server_ready()
assert client.get_server_metadata(headers=dict(token))["name"] == "skd-edge"
found = {}
for model in (name, name + "-encoded"):
    for version in ("", "1"):
        assert client.is_model_ready(model, version, headers=dict(token))
        told = client.get_model_metadata(model, version, headers=dict(token))
    (given,), (output,) = told["inputs"], told["outputs"]
    array = images if given["datatype"] == "UINT8" else np.array(files, object).reshape(-1, 1)
    for binary in (True, False) if given["datatype"] == "UINT8" else (True,):
        for count in (1, len(array)):
            tensor = triton.InferInput(given["name"], list(array[:count].shape), given["datatype"])
            tensor.set_data_from_numpy(array[:count], binary_data=binary)
            wanted = triton.InferRequestedOutput(output["name"], binary_data=binary)
            for number, more in enumerate((
                {}, {"outputs": [wanted]}, {"outputs": [wanted], "model_version": "1"},
                {"request_compression_algorithm": "gzip", "response_compression_algorithm": "gzip"},
                {"request_compression_algorithm": "deflate", "request_id": "7"},
            )):
                answer = client.infer(model, [tensor], headers=dict(token), **more)
                assert answer.get_response()["model_name"] == model
                assert answer.get_response().get("id", "") == more.get("request_id", "")
                form = f"{given['name']}/{binary}/{count}/{number}"
                found[form] = answer.as_numpy(output["name"])
    tensor = triton.InferInput(given["name"], list(array.shape), given["datatype"])
    tensor.set_data_from_numpy(array)
    classes = triton.InferRequestedOutput(output["name"], class_count=2)
    answer = client.infer(model, [tensor], outputs=[classes], headers=dict(token))
    found[f"{given['name']}/classes"] = answer.as_numpy(output["name"]).astype(str)
    pending = [client.async_infer(model, [tensor], headers=dict(token)) for _ in range(8)]
    for number, request in enumerate(pending):
        found[f"{given['name']}/async/{number}"] = request.get_result().as_numpy(output["name"])
errors = {}
for model, headers in ((name, {}), ("nobody", token)):
    try:
        client.infer(model, [tensor], headers=headers)
    except triton.InferenceServerException as error:
        errors[model] = f"{error.status()}: {error.message()}"
    else:
        errors[model] = ""
try:
    bad = triton.InferInput("encoded", [1, 1], "BYTES")
    bad.set_data_from_numpy(np.array([[b"text"]], object))
    client.infer(name + "-encoded", [bad], headers=dict(token))
except triton.InferenceServerException as error:
    errors["bad"] = f"{error.status()}: {error.message()}"
np.savez(target, errors=[errors[name], errors["nobody"], errors["bad"]], **found)
"""


def test_tritons_client_gets_the_runtimes_answers(
    triton_client_python: Path, toy_bundle: Path, tmp_path: Path
) -> None:
    target = tmp_path / "answers.npz"
    with open_classifier(toy_bundle) as classifier, Batcher(classifier) as batcher:
        api = build_api(batcher, settings=ServerSettings(token="secret"))
        with serving(api) as client:
            address = f"{client.base_url.host}:{client.base_url.port}"
            told = client.get("/v1/model", headers={"Authorization": "Bearer secret"}).json()
            given = [toy_bundle / "holdout.npz", toy_bundle / "examples", target]
            command = [triton_client_python, "-c", ASK, address, told["name"], *given]
            subprocess.run(list(map(str, command)), check=True, timeout=120)
        with np.load(toy_bundle / "holdout.npz") as held:
            images = held["images"]
        files = sorted((toy_bundle / "examples").iterdir())
        expected = {
            "images": classifier.probabilities(images),
            "encoded": classifier.probabilities(np.stack([*map(classifier.prepare, files)])),
        }
        names = classifier.card.class_names
    with np.load(target) as answers:
        forms = [form for form in answers.files if form != "errors"]
        assert len(forms) == 20 + 10 + 2 + 16
        for form in forms:
            rows = expected[form.partition("/")[0]]
            if form.endswith("classes"):
                order = np.argsort(-rows, axis=1, kind="stable")[:, :2]
                texts = [
                    [f"{row[i]:.6f}:{i}:{names[i]}" for i in best]
                    for row, best in zip(rows, order, strict=True)
                ]
                assert answers[form].tolist() == texts
            else:
                np.testing.assert_array_equal(answers[form], rows[: len(answers[form])])
        no_token, unknown, broken = answers["errors"].tolist()
    assert no_token.startswith("401: a bearer token is needed")
    assert unknown.startswith("404: model 'nobody' is unknown")
    assert broken.startswith("400: picture 0: not a readable image")
