"""Sessions of ONNX Runtime."""

import importlib
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from runtime import (
    BackendError,
    BundleError,
    UserError,
    open_classifier,
)
from runtime.backends import onnx_provider
from runtime.backends.diagnosis import diagnose
from runtime.backends.onnx_session import OnnxSession
from runtime.backends.session import Threads
from runtime.base.errors import DeviceLostError


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


def _hollow(_name: str) -> object:
    return ModuleType("onnxruntime")


def _partial(_name: str) -> object:
    raise ModuleNotFoundError("No module named 'onnxruntime.capi'", name="onnxruntime.capi")


def _unloadable(_name: str) -> object:
    raise ImportError("libonnxruntime.so: cannot open shared object file")


@pytest.mark.parametrize(
    ("load", "why"),
    [
        (_hollow, "it has no InferenceSession"),
        (_partial, "No module named 'onnxruntime.capi'"),
        (_unloadable, "cannot open shared object file"),
    ],
)
def test_a_damaged_onnxruntime_is_told_and_how_to_mend_it(
    toy_bundle: Path, load: Callable[[str], object], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind `pip uninstall onnxruntime` where onnxruntime-gpu was installed, too."""
    really = importlib.import_module
    monkeypatch.setattr(
        importlib, "import_module", lambda name: (load if name == "onnxruntime" else really)(name)
    )
    mend = "pip uninstall -y onnxruntime onnxruntime-gpu; pip install onnxruntime"
    with pytest.raises(BackendError) as refused:
        open_classifier(toy_bundle)
    assert "onnxruntime is damaged" in str(refused.value)
    assert why in str(refused.value)
    assert mend in str(refused.value)
    with pytest.raises(BackendError, match="onnxruntime is damaged") as refused:
        onnx_provider.load_onnxruntime()
    assert mend in str(refused.value)
    found = diagnose()
    assert found.onnxruntime.startswith("damaged (")
    assert found.providers == []
    states = {state.backend: state for state in found.backends}
    assert states["onnx-cpu"].remedy == mend


def test_an_onnxruntime_that_is_not_installed_stays_a_missing_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(name: str) -> object:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ModuleNotFoundError):
        onnx_provider.load_onnxruntime()


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


# As ONNX Runtime's cuda_call.cc words it. 700: an illegal address, 2: out of memory.
@pytest.mark.parametrize(("code", "lost"), [(700, True), (2, False)])
def test_an_error_that_ends_all_use_of_cuda_is_marked(
    code: int, lost: bool, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = (toy_bundle / "model.onnx").read_bytes()

    def fail(*_: object, **__: object) -> object:
        raise RuntimeError(
            "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv "
            f"node.\nCUDA failure {code}: it failed ; GPU=0 ; hostname=box ; file=a.cc ; line=7"
        )

    with OnnxSession(model, source="model.onnx", backend="onnx-cpu") as session:
        monkeypatch.setattr(session, "_session", SimpleNamespace(run=fail))
        with pytest.raises(BackendError, match="onnx-cpu failed") as running:
            session.run(np.zeros((1, 32, 32, 3), np.uint8))
    assert isinstance(running.value, DeviceLostError) == lost
    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    with pytest.raises(DeviceLostError if lost else BundleError):
        OnnxSession(model, source="model.onnx", backend="onnx-cpu")


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


@pytest.mark.parametrize(
    ("allowed", "threads", "expected"),
    [
        ({3}, None, 1),
        ({0, 2, 5}, None, 3),
        ({0, 2, 5}, Threads(intra_op=2), 2),
        (set(range(8)), None, 0),  # ONNX Runtime's own choice, of a machine without limits
    ],
)
def test_threads_keep_to_the_cores_that_the_process_may_use(
    toy_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    allowed: set[int],
    threads: Threads | None,
    expected: int,
) -> None:
    """ONNX Runtime would bind threads to the others, too: `taskset -c 0` ran on every core."""
    import onnxruntime

    opened: list[int] = []
    really = onnxruntime.InferenceSession

    def recorded(model: bytes, options: onnxruntime.SessionOptions, **rest: object) -> object:
        opened.append(options.intra_op_num_threads)
        return really(model, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", recorded)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed, raising=False)
    model = (toy_bundle / "model.onnx").read_bytes()
    OnnxSession(model, source="test", backend="onnx-cpu", threads=threads).close()
    assert opened == [expected]


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
