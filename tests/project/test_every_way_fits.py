"""Every way to the network shows it the same bytes of a picture of 3:1, for each fit."""

import base64
import importlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from edge_marks import COLOURS, write_edge_marks
from live_server import serving
from numpy.typing import NDArray
from PIL import Image

from demo.service.picture import open_picture
from export.trained_run import read_run
from runtime import Batcher, Limits, open_classifier
from runtime.backends.onnx_session import OnnxSession
from runtime.commands import classify, compare, evaluate, verify
from runtime.inference.classifier import Classifier
from runtime.inference.video import Frame
from runtime.model.bundle import read_card, write_card
from runtime.model.card import FITS, InputSpec
from runtime.model.holdout import read_holdout
from runtime.model.preprocess import preprocess
from runtime.server.api import build_api
from training import evaluate as evaluate_run
from training import run
from training.evaluation import logits as logits_module
from training.records.checkpoint import load_trained

SIZE = 32
COLOUR = {"red": (220, 40, 30), "green": (40, 200, 60), "blue": (30, 60, 210)}
Seen = list[NDArray[np.uint8]]


def wide(colour: tuple[int, int, int], seed: int = 0) -> Image.Image:
    """A picture of 384 x 128 with coarse structure in every part, mostly of one colour."""
    coarse = np.random.default_rng(seed).integers(-40, 40, (8, 24, 3)) + np.array(colour)
    small = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8))
    return small.resize((384, 128), Image.Resampling.BICUBIC)


@pytest.fixture(params=FITS)
def spec(request: pytest.FixtureRequest) -> InputSpec:
    mean, std = (0.2, 0.4, 0.8), (0.3,) * 3
    resize = 36 if request.param == "crop" else SIZE
    return InputSpec(size=SIZE, resize=resize, crop=SIZE, fit=request.param, mean=mean, std=std)


@pytest.fixture
def picture(tmp_path: Path) -> bytes:
    """A JPEG that is stored on its side, as a camera does, and is decoded at a part of its size."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    wide(COLOUR["red"]).transpose(Image.Transpose.ROTATE_90).save(file, "JPEG", exif=exif)
    return file.getvalue()


def reference(content: bytes, spec: InputSpec) -> NDArray[np.uint8]:
    """The network's input by Pillow alone, from the decoder's own reduced picture."""
    with Image.open(io.BytesIO(content)) as image:
        image.draft("RGB", (12, 32) if spec.fit == "letterbox" else (spec.resize, spec.resize))
        upright = image.transpose(Image.Transpose.ROTATE_270)
    width, height = upright.size
    bilinear = Image.Resampling.BILINEAR
    if spec.fit == "stretch":
        return np.asarray(upright.resize((SIZE, SIZE), bilinear))
    if spec.fit == "letterbox":
        square = Image.new("RGB", (SIZE, SIZE), (51, 102, 204))
        rows = round(height * SIZE / width)
        square.paste(upright.resize((SIZE, rows), bilinear), (0, (SIZE - rows) // 2))
        return np.asarray(square)
    side = height * SIZE / spec.resize
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(upright.resize((SIZE, SIZE), bilinear, box=box))


@pytest.fixture
def bundle(toy_bundle: Path, spec: InputSpec, tmp_path: Path) -> Path:
    """The bundle that names the strongest colour, for pictures that are fitted in this way."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "model.onnx").write_bytes((toy_bundle / "model.onnx").read_bytes())
    card = read_card(toy_bundle)
    write_card(folder, msgspec.structs.replace(card, input=spec, files=card.files[:1]))
    (folder / "holdout.npz").write_bytes((toy_bundle / "holdout.npz").read_bytes())
    return folder


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """All images that a network was run on."""
    images: Seen = []
    original = OnnxSession._run

    def spy(self: OnnxSession, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        images.extend(batch.copy())
        return original(self, batch)

    monkeypatch.setattr(OnnxSession, "_run", spy)
    return images


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The model file of Triton's python backend, with the server's module replaced."""
    server: Any = ModuleType("triton_python_backend_utils")
    server.get_input_tensor_by_name = lambda request, name: request.get(name)
    server.Tensor = lambda name, rows: (name, rows)
    server.InferenceResponse = lambda outputs: dict(outputs)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", server)
    yield importlib.import_module("export.triton_server.python_model")
    sys.modules.pop("export.triton_server.python_model")


def answers_of_http(client: httpx.Client, content: bytes) -> list[dict[str, Any]]:
    """What /v1 and /v2 say to the picture, as a body and in JSON."""
    one = client.post("/v1/classify", content=content, headers={"Content-Type": "image/jpeg"})
    name = client.get("/v1/model").json()["name"]
    tensor = {
        "name": "encoded",
        "datatype": "BYTES",
        "shape": [1],
        "data": [base64.b64encode(content).decode()],
    }
    two = client.post(f"/v2/models/{name}-encoded/infer", json={"inputs": [tensor]})
    assert (one.status_code, two.status_code) == (200, 200), (one.text, two.text)
    return [one.json(), two.json()]


def ways(
    classifier: Classifier, bundle: Path, content: bytes, data: Path, triton: ModuleType
) -> Iterator[str]:
    """Takes each way once and says which it was."""
    prepared = classifier.prepare(content)  # which the caller compares
    path = data / "red" / "0.jpg"
    classifier.classify(content)
    yield "classify"
    list(classifier.classify_stream([path, content]))
    yield "classify_stream"
    classify.main([str(bundle), str(path), "--json"])
    yield "the command classify"
    classify.main(["--model", str(bundle), str(data / "red"), "--json"])
    yield "the command classify on a folder"
    with Batcher(classifier) as batcher:
        batcher.submit(content).result()
        yield "the batcher"
        with serving(build_api(batcher)) as client:
            answers_of_http(client, content)
        yield "HTTP"
    evaluate.main([str(bundle), str(data), "--json"])
    yield "the command evaluate"
    compare.main([str(bundle), str(bundle), str(data), "--json"])
    yield "the command compare"
    model = triton.TritonPythonModel()
    repository = bundle.parent / "repository" / "1"
    repository.mkdir(parents=True)
    (repository / "bundle").symlink_to(bundle)
    config = json.dumps({"parameters": {}})
    model.initialize(
        {"model_config": config, "model_repository": str(repository.parent), "model_version": "1"}
    )
    array = SimpleNamespace(as_numpy=lambda: prepared[None])
    file = SimpleNamespace(as_numpy=lambda: np.array([[content]], dtype=object))
    assert len(model.execute([{"images": array}, {"encoded": file}])) == 2
    model.finalize()
    yield "Triton's python backend"


def test_every_way_shows_the_network_the_same_bytes(
    bundle: Path,
    spec: InputSpec,
    picture: bytes,
    seen: Seen,
    triton: ModuleType,
    tmp_path: Path,
) -> None:
    wanted = reference(picture, spec)
    data = tmp_path / "data"
    for name in COLOUR:
        (data / name).mkdir(parents=True)
        (data / name / "0.jpg").write_bytes(picture)
    with open_classifier(bundle, backend="onnx-cpu") as classifier:
        assert np.array_equal(classifier.prepare(picture), wanted)
        for way in ways(classifier, bundle, picture, data, triton):
            assert seen, way
            for image in seen:
                assert np.array_equal(image, wanted), way
            seen.clear()
    shown = open_picture(picture, [spec], name="0.jpg", limits=Limits())
    assert np.array_equal(shown.views[spec], wanted)


def test_frames_arrays_and_pictures_in_memory_are_the_same(
    bundle: Path, spec: InputSpec, seen: Seen
) -> None:
    """A frame of a video is an array; what is decoded already is reduced no more."""
    image = wide(COLOUR["green"])
    file = io.BytesIO()
    image.save(file, "PNG")
    pixels = np.asarray(image)
    with open_classifier(bundle, backend="onnx-cpu") as classifier:
        wanted = classifier.prepare(file.getvalue())
        frames = [Frame(0, 0.0, pixels)]
        list(classify._answers_of_frames(classifier, frames, 1))  # type: ignore[arg-type]
        classifier.classify_batch([pixels, image, file.getvalue()])
        list(classifier.classify_stream(iter([pixels, image])))
        with Batcher(classifier) as batcher:
            batcher.submit(pixels).result()
    assert len(seen) == 7
    assert all(np.array_equal(image, wanted) for image in seen)


def test_the_holdout_is_run_as_it_is(bundle: Path, seen: Seen) -> None:
    assert verify.main([str(bundle), "--json"]) in (0, 3)
    held = read_holdout(bundle, read_card(bundle)).images
    assert {image.tobytes() for image in seen} == {image.tobytes() for image in held}


def test_models_of_two_fits_are_compared_on_pictures_alone(
    bundle: Path, spec: InputSpec, toy_bundle: Path, tmp_path: Path
) -> None:
    """A picture that was prepared for one of them shows the other something else."""
    other = tmp_path / "other"
    other.mkdir()
    for file in bundle.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    fit = "stretch" if spec.fit == "letterbox" else "letterbox"
    changed = msgspec.structs.replace(spec, fit=fit, resize=SIZE)
    write_card(other, msgspec.structs.replace(read_card(other), input=changed))
    with pytest.raises(Exception, match="the models see different images"):
        compare.main([str(bundle), str(other)])


@pytest.mark.parametrize("fit", FITS)
def test_a_run_is_trained_evaluated_and_exported_on_the_same_bytes(
    fit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test images, held out images and calibration, and new labelled images."""
    data = write_edge_marks(tmp_path / "marks", train=3, test=2)
    recipe = tmp_path / "quick.yaml"
    recipe.write_text("epochs: 1\nbatch_size: 8\noptimizer: sgd\nlearning_rate: 0.01\nfit: " + fit)
    words = ["--arch", "shufflenetv2", "--width", "0.5", "--image-size", "16", "--device", "cpu"]
    words += ["--data", str(data), "--recipe", str(recipe), "--out", str(tmp_path / "run")]
    assert run.main([*words, "--allow-leaks"]) == 0
    spec = load_trained(tmp_path / "run").plan.input
    assert spec.fit == fit

    exported = read_run(tmp_path / "run", lambda _text: None)
    assert exported.card.input.fit == fit
    tested = [preprocess(data / path, spec) for path in exported.dataset.test_paths]
    assert np.array_equal(exported.test.images, np.stack(tested))
    trained = {preprocess(data / path, spec).tobytes() for path in exported.dataset.train_paths}
    assert {image.tobytes() for image in exported.calibration_data().images} <= trained

    shown: Seen = []
    original = logits_module.logits_of

    def spy(student: Any, images: NDArray[np.uint8], *others: Any, **named: Any) -> Any:
        shown.extend(images)
        return original(student, images, *others, **named)

    monkeypatch.setattr(logits_module, "logits_of", spy)
    assert evaluate_run.main([str(tmp_path / "run"), str(data / "test"), "--json"]) == 0
    assert {image.tobytes() for image in shown} == {image.tobytes() for image in tested}
    assert len(shown) == 2 * len(COLOURS)
