"""Engines on stand-ins for TensorRT 8.6, 10.3, 10.16 and 11.4, which have those versions' names.

A call or an enum that one of them lacks fails here, years before a user meets it.
"""

import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.engines.build_engine import BuildRequest, build_engine
from export.engines.flavors import TensorRt, WeaklyTypedTensorRt, tensorrt_of_version
from runtime.base.errors import BackendError, VerificationError
from runtime.model.card import Profile

VERSIONS = ("8.6.1", "10.3.0", "10.16.1", "11.4.0")
BUILT = {"fp32": "FP32", "fp16": "FP16", "int8": "Int8"}
FakeTrt = Callable[..., Any]


def request(precision: str = "fp16", **changes: Any) -> BuildRequest:
    values = {
        "model": b"onnx",
        "source": "model.onnx",
        "precision": precision,
        "profile": Profile(min=1, opt=8, max=64),
        "input_size": 32,
        "target": ("8.7",),
    }
    return BuildRequest(**{**values, **changes})


def flavor_of(trt: Any, errors: tuple[str, ...] = ()) -> TensorRt:
    class Log:
        """Messages come while an engine is built, after those of earlier builds are forgotten."""

        def __init__(self) -> None:
            self.errors: deque[str] = deque()

    log = Log()
    trt.answers.setdefault("OnnxParser.parse", lambda *_: True)
    for name in ("Builder.build_serialized_network", "OnnxParser.parse"):
        answer = trt.answers[name]

        def answering(*arguments: Any, answer: Any = answer) -> Any:
            log.errors.extend(errors)
            return answer(*arguments)

        trt.answers[name] = answering
    return tensorrt_of_version(trt, log)


def test_the_stand_in_lacks_what_the_version_lacks(fake_trt: FakeTrt) -> None:
    old, new = fake_trt("8.6.1"), fake_trt("11.4.0")
    assert old.BuilderFlag.FP16 is not None
    with pytest.raises(AttributeError):
        _ = new.BuilderFlag.FP16
    with pytest.raises(AttributeError, match=r"8\.6\.1 has no IBuilderConfig\.progress_monitor"):
        old.IBuilderConfig().progress_monitor = None
    assert not hasattr(old, "IProgressMonitor")
    assert not hasattr(new.IBuilderConfig(), "int8_calibrator")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", list(BUILT))
def test_every_precision_builds_with_the_names_of_every_version(
    version: str, precision: str, fake_trt: FakeTrt, tmp_path: Path
) -> None:
    trt = fake_trt(version, BUILT[precision])
    cache = tmp_path / "timing.cache"
    built = build_engine(
        flavor_of(trt),
        request(precision, workspace_bytes=1 << 20, optimization_level=3, timing_cache=cache),
    )
    assert built.plan == b"plan"
    assert cache.read_bytes() == b"timings"
    assert trt.arguments_of("OnnxParser.parse") == [(b"onnx",)]
    ((name, *shapes),) = trt.arguments_of("IOptimizationProfile.set_shape")
    assert (name, shapes) == ("images", [(n, 32, 32, 3) for n in (1, 8, 64)])
    pool, size = trt.arguments_of("IBuilderConfig.set_memory_pool_limit")[0]
    assert (pool.name, size) == ("WORKSPACE", 1 << 20)
    assert trt.arguments_of("IBuilderConfig.builder_optimization_level") == [(3,)]
    cleared = [flag.name for (flag,) in trt.arguments_of("IBuilderConfig.clear_flag")]
    assert cleared == (["TF32"] if precision == "fp32" else [])


@pytest.mark.parametrize("version", VERSIONS)
def test_precision_is_asked_for_by_flags_in_8_and_by_types_from_10_on(
    version: str, fake_trt: FakeTrt
) -> None:
    trt = fake_trt(version, "Int8")
    flavor = flavor_of(trt)
    build_engine(flavor, request("int8"))
    flags = [flag.name for (flag,) in trt.arguments_of("IBuilderConfig.set_flag")]
    ((network_flags,),) = trt.arguments_of("Builder.create_network")
    creation = trt.NetworkDefinitionCreationFlag
    if version.startswith("8"):
        assert isinstance(flavor, WeaklyTypedTensorRt)
        assert (flags, flavor.newest_opset) == (["FP16", "INT8"], 17)
        assert network_flags == 1 << creation.EXPLICIT_BATCH
    else:
        assert not isinstance(flavor, WeaklyTypedTensorRt)
        assert (flags, flavor.newest_opset) == ([], 20)
        assert network_flags == 1 << creation.STRONGLY_TYPED


@pytest.mark.parametrize(
    ("version", "sources"), [("8.6.1", 0b11000), ("10.16.1", 0b11000), ("11.4.0", 0b11111)]
)
def test_cublas_and_cudnn_are_left_out_by_name(
    version: str, sources: int, fake_trt: FakeTrt
) -> None:
    trt = fake_trt(version, "FP16")
    build_engine(flavor_of(trt), request())
    assert trt.arguments_of("IBuilderConfig.set_tactic_sources") == [(sources,)]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("wanted", "built"), [("fp16", "FP32"), ("int8", "FP16")])
def test_an_engine_of_another_precision_is_not_handed_over(
    version: str, wanted: str, built: str, fake_trt: FakeTrt, tmp_path: Path
) -> None:
    cache = tmp_path / "timing.cache"
    with pytest.raises(
        VerificationError, match=f"asked for {wanted}, tensorrt .* built {built.lower()}"
    ):
        build_engine(flavor_of(fake_trt(version, built)), request(wanted, timing_cache=cache))
    assert not cache.exists()


def test_8_6_without_an_inspector_is_not_believed(fake_trt: FakeTrt) -> None:
    trt = fake_trt("8.6.1", "FP16")
    trt.answers["EngineInspector.get_engine_information"] = lambda *_: "{}"
    with pytest.raises(BackendError, match="does not tell the precision"):
        build_engine(flavor_of(trt), request())


def test_8_6_says_why_the_new_engine_cannot_be_looked_into(fake_trt: FakeTrt) -> None:
    trt = fake_trt("8.6.1", "FP16")
    trt.answers["Runtime.deserialize_cuda_engine"] = lambda *_: None
    with pytest.raises(BackendError, match="the precision it has built: out of memory"):
        build_engine(flavor_of(trt, errors=("out of memory",)), request())


@pytest.mark.parametrize("precision", list(BUILT))
def test_8_6_tells_of_open_shapes_by_their_weights_and_is_shown_a_batch(
    precision: str, fake_trt: FakeTrt
) -> None:
    trt = fake_trt("8.6.1")
    unknown = {"Format/Datatype": "N/A due to dynamic shapes", "Dimensions": [-1, 16, 8, 8]}
    weights = {"Type": {"fp32": "Float", "fp16": "Half", "int8": "Int8"}[precision], "Count": 864}
    layer = {"Inputs": [unknown], "Weights": weights, "Bias": {"Type": "Float", "Count": 16}}
    shown = json.dumps({"Layers": [layer]})
    trt.answers["EngineInspector.get_engine_information"] = lambda *_: shown
    build_engine(flavor_of(trt), request(precision))
    assert trt.arguments_of("IExecutionContext.set_input_shape") == [("images", (8, 32, 32, 3))]
    assert len(trt.arguments_of("EngineInspector.execution_context")) == 1


@pytest.mark.parametrize(("weights", "precision"), [("Half", "fp16"), ("Int8", "int8")])
def test_the_bytes_of_the_input_do_not_make_an_int8_engine(
    weights: str, precision: str, fake_trt: FakeTrt
) -> None:
    trt = fake_trt("8.6.1")
    images = {"Name": "images", "Location": "Device", "Dimensions": [8, 32, 32, 3]}
    images["Format/Datatype"] = "Row major Int8 format"
    normalised = {"Name": "normalised", "Format/Datatype": "Row major linear FP16 format"}
    layers = [
        {"Name": "Cast", "Inputs": [images], "Outputs": [normalised]},
        {"Name": "Conv", "Inputs": [normalised], "Weights": {"Type": weights, "Count": 864}},
    ]
    shown = json.dumps({"Layers": layers, "Bindings": ["images"]}, indent=1)
    trt.answers["EngineInspector.get_engine_information"] = lambda *_: shown
    assert build_engine(flavor_of(trt), request(precision)).plan == b"plan"


def test_from_10_on_the_networks_types_answer_where_the_inspector_does_not(
    fake_trt: FakeTrt,
) -> None:
    trt = fake_trt("10.3.0", "FP16")
    trt.answers["EngineInspector.get_engine_information"] = lambda *_: "{}"
    assert build_engine(flavor_of(trt), request()).plan == b"plan"


def test_an_inspector_that_does_not_see_into_a_fused_region_takes_nothing_away(
    fake_trt: FakeTrt,
) -> None:
    trt = fake_trt("11.4.0", "Int8")
    shown = '{"Inputs": [{"Format/Datatype": "Row major linear FP16 format"}]}'
    trt.answers["EngineInspector.get_engine_information"] = lambda *_: shown
    assert build_engine(flavor_of(trt), request("int8")).plan == b"plan"


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("8.6.1", "node number 7: unsupported"),
        ("11.4.0", r"node node_Conv_7 \(Conv\): unsupported"),
    ],
)
def test_the_parsers_error_names_the_node(version: str, words: str, fake_trt: FakeTrt) -> None:
    trt = fake_trt(version)
    trt.answers["OnnxParser.parse"] = lambda *_: False
    with pytest.raises(BackendError, match=rf"tensorrt \S+ cannot read model.onnx: {words}"):
        build_engine(flavor_of(trt), request())


def test_a_builder_that_finds_no_cuda_says_so(fake_trt: FakeTrt) -> None:
    trt = fake_trt("8.6.1")

    def no_builder(_log: Any) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    flavor = flavor_of(trt)
    trt.Builder = no_builder
    with pytest.raises(BackendError, match="could not create a builder: TensorRT gave no reason"):
        build_engine(flavor, request())


@pytest.mark.parametrize(
    ("call", "answer", "words"),
    [
        ("Builder.create_network", None, "could not create a network: out of memory"),
        ("Builder.create_builder_config", None, "could not create a configuration"),
        ("Builder.build_serialized_network", None, "could not build an engine: out of memory"),
        ("IBuilderConfig.add_optimization_profile", -1, r"refused the batch profile \(1, 8, 64\)"),
        ("IBuilderConfig.set_timing_cache", False, "could not take a new timing cache"),
    ],
)
def test_every_status_is_checked(
    call: str, answer: Any, words: str, fake_trt: FakeTrt, tmp_path: Path
) -> None:
    trt = fake_trt("10.3.0")
    trt.answers[call] = lambda *_: answer
    if "cache" not in call and answer is None:
        words = words.replace(": out of memory", "")
    with pytest.raises(BackendError, match=words):
        build_engine(
            flavor_of(trt, errors=("out of memory",)),
            request(timing_cache=tmp_path / "timing.cache"),
        )


def test_a_timing_cache_of_another_gpu_begins_anew(fake_trt: FakeTrt, tmp_path: Path) -> None:
    trt = fake_trt("10.3.0", "FP16")
    answers = iter([False, True])
    trt.answers["IBuilderConfig.set_timing_cache"] = lambda *_: next(answers)
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"foreign")
    build_engine(flavor_of(trt), request(timing_cache=cache))
    assert trt.arguments_of("IBuilderConfig.create_timing_cache") == [(b"foreign",), (b"",)]
    assert cache.read_bytes() == b"timings"


def test_progress_is_shown_where_the_version_has_a_monitor(
    fake_trt: FakeTrt, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    build_engine(flavor_of(fake_trt("8.6.1", "FP16")), request())
    trt = fake_trt("10.3.0", "FP16")
    trt.IProgressMonitor = type("IProgressMonitor", (), {"__init__": lambda self: None})
    build_engine(flavor_of(trt), request())
    ((monitor,),) = trt.arguments_of("IBuilderConfig.progress_monitor")
    monitor.phase_start("Timing tactics", None, 4)
    assert monitor.step_complete("Timing tactics", 1) is True
    monitor.phase_finish("Timing tactics")
    shown = capsys.readouterr().err
    assert "building model.onnx for 8.7: Timing tactics 2/4" in shown
    assert shown.endswith("\r\x1b[K")
    monkeypatch.setenv("COLUMNS", "40")  # a longer line would go on in the next, and stay
    monitor.phase_start("Building engine from subgraph", None, 1)
    assert capsys.readouterr().err == "\r\x1b[Kbuilding model.onnx for 8.7: Building e"
