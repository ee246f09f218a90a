"""Opening models and classifying with them from Python."""

import hashlib
import logging
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from runtime import (
    BackendError,
    BundleError,
    ImageError,
    UserError,
    open_classifier,
)
from runtime.backends import onnx_provider
from runtime.backends.onnx_session import OnnxSession
from runtime.model.bundle import read_card, write_card


def test_every_kind_of_source_gives_the_same_answer(toy_bundle: Path) -> None:
    path = toy_bundle / "examples" / "green.png"
    image = Image.open(path)
    with open_classifier(toy_bundle) as classifier:
        expected = classifier.classify(path)
        assert expected[0].label == "green"
        assert sum(prediction.probability for prediction in expected) == pytest.approx(1)
        for source in (str(path), path.read_bytes(), image, np.asarray(image)):
            assert classifier.classify(source) == expected
        with pytest.raises(ImageError, match="received int, expected a path, bytes"):
            classifier.classify(3)  # type: ignore[arg-type]


def test_probabilities_equal_the_holdout(toy_bundle: Path) -> None:
    holdout = np.load(toy_bundle / "holdout.npz")
    for precision, tolerance in (("fp32", 1e-6), ("fp16", 2e-3)):
        with open_classifier(toy_bundle, precision=precision) as classifier:
            assert classifier.precision == precision
            found = classifier.session.run(holdout["images"])
        assert found.dtype == np.float32
        assert np.abs(found - holdout["probabilities"]).max() < tolerance


def test_prepared_images_are_classified_in_batches_that_the_session_takes(
    toy_bundle: Path,
) -> None:
    with open_classifier(toy_bundle) as classifier:
        images = np.load(toy_bundle / "holdout.npz")["images"][:7]
        expected = classifier.session.run(images)
        classifier.session.max_batch = 3
        np.testing.assert_allclose(classifier.probabilities(images), expected, atol=1e-6)
        answers = classifier.classify_prepared(images, top_k=2)
        assert [answer[0].index for answer in answers] == expected.argmax(axis=1).tolist()
        assert [len(answer) for answer in answers] == [2] * 7
        for wrong in (images[:0], images[0], images.astype(np.float32), images[:, 1:]):
            with pytest.raises(UserError, match=r"^received .*, expected uint8"):
                classifier.classify_prepared(wrong)  # type: ignore[arg-type]


def test_batches_keep_their_order_around_broken_images(toy_bundle: Path) -> None:
    colours = [toy_bundle / "examples" / f"{name}.png" for name in ("red", "green", "blue")]
    sources = [*colours * 7, b"broken", *colours]
    with open_classifier(toy_bundle) as classifier:
        answers = classifier.classify_batch(sources, on_error="return", top_k=1)
        labels = [a if isinstance(a, ImageError) else a[0].label for a in answers]
        assert labels[:21] == ["red", "green", "blue"] * 7
        assert "image 21: not a readable image" in str(labels[21])
        assert labels[22:] == ["red", "green", "blue"]
        with pytest.raises(ImageError, match="image 21"):
            classifier.classify_batch(sources)
        assert classifier.classify_batch([]) == []


def test_a_stream_that_fails_gives_what_came_before(toy_bundle: Path) -> None:
    def camera() -> Iterator[Path]:
        for _ in range(19):
            yield toy_bundle / "examples" / "green.png"
        raise OSError("the camera is gone")

    answers = []
    with (
        open_classifier(toy_bundle) as classifier,
        pytest.raises(OSError, match="the camera is gone"),
    ):
        answers.extend(answer[0].label for answer in classifier.classify_stream(camera()))
    assert answers == ["green"] * 19


@pytest.mark.parametrize(("images", "largest"), [(6, 2), (2, 1), (100, 8)])
def test_few_images_are_for_all_cores(
    toy_bundle: Path, images: int, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.inference.classifier.usable_cores", lambda: 4)
    with open_classifier(toy_bundle) as classifier:
        sizes, run = [], classifier.session.run
        monkeypatch.setattr(
            classifier.session, "run", lambda batch: (sizes.append(len(batch)), run(batch))[1]
        )
        paths = [toy_bundle / "examples" / "green.png"] * images
        assert len(list(classifier.classify_stream(paths))) == images
    assert (sum(sizes), max(sizes)) == (images, largest)


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


def test_a_stream_reads_only_a_little_ahead(toy_bundle: Path) -> None:
    read = 0

    def endless() -> "object":
        nonlocal read
        while True:
            read += 1
            yield np.full((32, 32, 3), 9, np.uint8)

    with open_classifier(toy_bundle) as classifier:
        stream = classifier.classify_stream(endless())
        for _ in range(10):
            next(stream)
        assert read < 200
        stream.close()


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


def test_cuda_is_loaded_from_its_wheels_without_a_word_on_stdout(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    onnx_provider.load_provider.cache_clear()
    monkeypatch.setattr(
        "onnxruntime.preload_dlls", lambda: print("Failed to load libcublasLt.so.13")
    )
    with caplog.at_level(logging.INFO, logger="runtime"):
        onnx_provider.load_provider("onnx-cpu")
        assert not caplog.messages
        onnx_provider.load_provider("onnx-cuda")
    onnx_provider.load_provider.cache_clear()
    assert capsys.readouterr().out == ""
    assert caplog.messages == ["Failed to load libcublasLt.so.13"]


def test_a_silent_fallback_of_onnxruntime_is_refused(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a machine whose CUDA libraries do not load: only a log line tells.
    monkeypatch.setattr("runtime.backends.onnx_session.missing_provider", lambda backend: None)
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(BackendError, match="onnx-cuda did not start"),
    ):
        OnnxSession(
            (toy_bundle / "model.onnx").read_bytes(), source="model.onnx", backend="onnx-cuda"
        )


def test_sessions_check_their_input(toy_bundle: Path) -> None:
    with open_classifier(toy_bundle) as classifier:
        for images in (
            np.zeros((1, 32, 32, 3), np.float32),
            np.zeros((32, 32, 3), np.uint8),
            np.zeros((1, 3, 32, 32), np.uint8),
            np.zeros((0, 32, 32, 3), np.uint8),
        ):
            with pytest.raises(UserError, match=r"expected uint8 \(N, 32, 32, 3\)"):
                classifier.session.run(images)  # type: ignore[arg-type]
        turned = np.asfortranarray(np.zeros((2, 32, 32, 3), np.uint8))
        assert classifier.session.run(turned).shape == (2, 3)
    with pytest.raises(BackendError, match="closed"):
        classifier.session.run(np.zeros((1, 32, 32, 3), np.uint8))
    classifier.close()


def test_one_session_serves_many_threads(toy_bundle: Path) -> None:
    labels: list[str] = []

    def client() -> None:
        image = np.zeros((32, 32, 3), np.uint8)
        image[..., 1] = 200
        labels.extend(classifier.classify(image)[0].label for _ in range(50))

    with open_classifier(toy_bundle) as classifier:
        threads = [threading.Thread(target=client) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert labels == ["green"] * 400


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


def int8_over_fp16() -> bytes:
    """A convolution with Q/DQ around it, in float16, with a bias in float16."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    constants = {
        "scale": np.array(1 / 127, np.float16),
        "zero": np.array(0, np.int8),
        "weight": rng.integers(-127, 128, (16, 3, 3, 3)).astype(np.int8),
        "weight_scale": rng.uniform(1e-5, 4e-3, 16).astype(np.float16),
        "weight_zero": np.zeros(16, np.int8),
        "bias": rng.normal(0, 1, 16).astype(np.float16),
        "ratio": np.array(1 / 255, np.float32),
        "axes": np.array([2, 3], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "ratio"], ["unit"]),
        helper.make_node("Transpose", ["unit"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("QuantizeLinear", ["half", "scale", "zero"], ["in_q"]),
        helper.make_node("DequantizeLinear", ["in_q", "scale", "zero"], ["in_dq"]),
        helper.make_node(
            "DequantizeLinear", ["weight", "weight_scale", "weight_zero"], ["weight_dq"], axis=0
        ),
        helper.make_node("Conv", ["in_dq", "weight_dq", "bias"], ["conv"]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("QuantizeLinear", ["relu", "scale", "zero"], ["out_q"]),
        helper.make_node("DequantizeLinear", ["out_q", "scale", "zero"], ["out_dq"]),
        helper.make_node("ReduceMean", ["out_dq", "axes"], ["mean"], keepdims=0),
        helper.make_node("Cast", ["mean"], ["logits"], to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "int8",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 16, 16, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 16])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def test_int8_over_float16_is_not_broken_by_onnxruntime() -> None:
    """WeightBiasQuantization of 1.31 and 1.32 changes such a graph's answers by 0.06."""
    import onnxruntime

    model = int8_over_fp16()
    images = np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    reference = onnxruntime.InferenceSession(model, plain, providers=["CPUExecutionProvider"])
    with OnnxSession(model, source="test", backend="onnx-cpu") as session:
        found = session.run(images)
    assert np.abs(found - reference.run(None, {"images": images})[0]).max() < 1e-5
