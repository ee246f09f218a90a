"""Opening models: which file runs where, and what is refused."""

import hashlib
import logging
import shutil
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from runtime import (
    BackendError,
    BundleError,
    UserError,
    open_classifier,
)
from runtime.backends.onnx_session import OnnxSession
from runtime.model.bundle import read_card, write_card
from runtime.model.card import Card


@pytest.mark.parametrize("file", [None, "model.onnx"])
def test_a_model_that_is_refused_is_closed(
    toy_bundle: Path, file: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU it would keep its memory: nobody else could give that back."""
    closed = []
    really_close = OnnxSession.close
    monkeypatch.setattr(
        OnnxSession, "close", lambda self: (closed.append(self), really_close(self))[0]
    )
    monkeypatch.setattr(
        "runtime.inference.open_classifier.Classifier",
        lambda *_, **__: (_ for _ in ()).throw(BundleError("other")),
    )
    with pytest.raises(BundleError, match="other"):
        open_classifier(toy_bundle / file if file else toy_bundle)
    assert len(closed) == 1


def test_the_choice_is_announced(toy_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "runtime")
    with open_classifier(toy_bundle) as classifier:
        assert (classifier.backend, classifier.precision) == ("onnx-cpu", "fp32")
        assert "no engine in the bundle" in classifier.reason
        assert classifier.describe() in caplog.text
    with open_classifier(toy_bundle, backend="onnx-cpu", precision="fp16") as classifier:
        assert classifier.reason == "asked for"


def test_an_asked_for_backend_is_never_replaced(toy_bundle: Path) -> None:
    for backend in ("onnx-cuda", "tensorrt", "tensorrt-rtx"):
        for model in (toy_bundle, toy_bundle / "model.onnx"):
            with pytest.raises(BackendError, match=backend):
                open_classifier(model, backend=backend)
    with pytest.raises(BackendError, match="holds fp16, not fp32"):
        open_classifier(toy_bundle / "model.fp16.onnx", precision="fp32")


def test_a_refusal_says_what_is_there(toy_bundle: Path) -> None:
    with pytest.raises(UserError, match="unknown precision 'int9'; choose one of fp32"):
        open_classifier(toy_bundle, precision="int9")
    with pytest.raises(BackendError, match=r"holds ONNX files of fp32, fp16 and no engine; add"):
        open_classifier(toy_bundle, backend="tensorrt")
    with pytest.raises(BackendError, match=r"^onnx-cuda cannot run here: onnxruntime"):
        open_classifier(toy_bundle, backend="onnx-cuda")
    # Of this precision: the bundle may have engines of another.
    with open_classifier(toy_bundle, precision="fp16") as classifier:
        assert classifier.reason.endswith("no fp16 engine in the bundle")


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("file", [None, "model.onnx"])
def test_cuda_that_does_not_start_is_passed_over_with_the_reason(
    toy_bundle: Path, file: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As with onnxruntime-gpu and a driver, but without CUDA or cuDNN.
    for missing in ("missing_build", "missing_gpu"):
        monkeypatch.setattr(f"runtime.backends.onnx_backends.{missing}", lambda *_: None)
    with open_classifier(toy_bundle / file if file else toy_bundle) as classifier:
        assert classifier.backend == "onnx-cpu"
        assert "onnx-cuda: CUDAExecutionProvider does not start" in classifier.reason
    with pytest.raises(BackendError, match="onnx-cuda cannot run"):
        open_classifier(toy_bundle / file if file else toy_bundle, backend="onnx-cuda")


def change_model(bundle: Path, content: bytes) -> None:
    """Replaces model.onnx and its digest in the card."""
    (bundle / "model.onnx").write_bytes(content)
    card = read_card(bundle)
    file = msgspec.structs.replace(card.files[0], sha256=hashlib.sha256(content).hexdigest())
    write_card(bundle, msgspec.structs.replace(card, files=(file,)))


def test_a_foreign_graph_is_refused(toy_bundle: Path, tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    bundle = tmp_path / "bundle"
    shutil.copytree(toy_bundle, bundle)
    node = helper.make_node("Identity", ["x"], ["y"])
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in "xy"]
    graph = helper.make_graph([node], "other", values[:1], values[1:])
    other = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    change_model(bundle, other.SerializeToString())
    with pytest.raises(BundleError, match="expected uint8 images"):
        open_classifier(bundle)
    with pytest.raises(BundleError, match="expected uint8 images"):
        open_classifier(bundle / "model.onnx")


def test_a_card_of_another_network_is_refused(toy_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(toy_bundle, bundle)
    card = read_card(bundle)
    write_card(bundle, msgspec.structs.replace(card, class_names=("cat", "dog")))
    with pytest.raises(BundleError, match="gives 3 classes from 32 px, its card lists 2"):
        open_classifier(bundle)


def test_an_onnx_file_without_a_card_is_refused(toy_bundle: Path, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(toy_bundle / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(BundleError, match="carries no model card"):
        open_classifier(tmp_path / "bare.onnx")


class Reads:
    """What is read from disk and parsed while a model is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files: Counter[str] = Counter()
        self.cards = 0
        read, convert = Path.read_bytes, msgspec.convert

        def counted_read(path: Path) -> bytes:
            self.files[path.name] += 1
            return read(path)

        def counted_convert(value: object, kind: type, **options: object) -> object:
            self.cards += kind is Card
            return convert(value, kind, **options)  # type: ignore[call-overload]

        monkeypatch.setattr(Path, "read_bytes", counted_read)
        monkeypatch.setattr(msgspec, "convert", counted_convert)


def test_a_bundle_is_opened_by_one_reading_of_card_and_file(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = Reads(monkeypatch)
    with open_classifier(toy_bundle):
        assert reads.files == {"card.json": 1, "model.onnx": 1}
        assert reads.cards == 1


def test_an_onnx_file_is_opened_by_one_reading(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = Reads(monkeypatch)
    with open_classifier(toy_bundle / "model.onnx"):
        assert reads.files == {"model.onnx": 1}
        assert reads.cards == 1
