"""Real engines: NVIDIA's own parser and builder, which need no GPU in TensorRT-RTX."""

import logging
import re
import signal
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from export.engines import flavors
from export.engines.build_engine import BuildRequest, BuiltEngine, build_engine
from export.engines.flavors import RTX_CAPABILITIES, EngineFlavor, load_flavor
from export.graphs.activation_ranges import observe, ranges
from export.graphs.qdq_placement import to_int8_tensorrt
from export.graphs.to_fp16 import to_fp16
from export.graphs.to_onnx import ExportedGraph, model_bytes
from runtime.backends.engine_backends import TENSORRT_RTX
from runtime.backends.gpu import Gpu, GpuError
from runtime.base.errors import BackendError, UserError, VerificationError
from runtime.model.card import Profile

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed (extra `rtx`)")


@pytest.fixture(scope="module")
def rtx() -> EngineFlavor:
    return load_flavor("tensorrt-rtx")


def build(flavor: EngineFlavor, content: bytes, precision: str, *target: str) -> BuiltEngine:
    profile = Profile(min=1, opt=8, max=64)
    return build_engine(
        flavor,
        BuildRequest(
            model=content,
            source=f"model.{precision}.onnx",
            precision=precision,
            profile=profile,
            input_size=32,
            target=target or ("8.6",),
        ),
    )


def int8_bytes(graph: ExportedGraph, images: np.ndarray) -> bytes:
    model = to_int8_tensorrt(graph.model, ranges(observe(graph.model, images[:8]), "minmax"))
    return model_bytes(to_fp16(model) if graph.opset >= 19 else model, {})


@pytest.mark.parametrize("graph", ["small_graph", "legacy_graph"])
def test_every_precision_of_both_exporters_builds(
    graph: str, rtx: EngineFlavor, images: np.ndarray, request: pytest.FixtureRequest
) -> None:
    exported = request.getfixturevalue(graph)
    contents = {
        "fp32": model_bytes(exported.model, {}),
        "fp16": model_bytes(to_fp16(exported.model), {}),
        "int8": int8_bytes(exported, images),
    }
    for precision, content in contents.items():
        assert len(build(rtx, content, precision).plan) > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["mobilenetv2", "shufflenetv2"])
def test_int8_engines_of_both_students_build_for_every_desktop_gpu(
    arch: str, rtx: EngineFlavor, student_graphs: dict[str, ExportedGraph], images: np.ndarray
) -> None:
    content = int8_bytes(student_graphs[arch], images)
    plans = {}
    for capability in RTX_CAPABILITIES:
        built = build(rtx, content, "int8", capability)
        assert built.seconds < 10
        plans[capability] = built.plan
    assert set(plans) == {"8.6", "8.9", "12.0"}
    assert len(set(plans.values())) == 3, "an engine is for one capability"


def test_one_engine_is_for_several_capabilities(
    rtx: EngineFlavor, small_graph: ExportedGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is as large as an engine for one of them: the kernels are compiled where it runs."""
    monkeypatch.setattr(flavors, "missing_gpu", lambda: GpuError("no driver", remedy="install one"))
    (target,) = rtx.targets(None)
    assert target == RTX_CAPABILITIES == ("8.6", "8.9", "12.0")
    config = rtx.trt.Builder(rtx.log).create_builder_config()
    rtx.configure(config, precision="fp16", target=target)
    named = [config.get_compute_capability(place) for place in range(3)]
    members = rtx.trt.ComputeCapability
    assert config.num_compute_capabilities == 3
    assert named == [members.SM86, members.SM89, members.SM120]
    content = model_bytes(to_fp16(small_graph.model), {})
    together = build(rtx, content, "fp16", *target).plan
    alone = [build(rtx, content, "fp16", capability).plan for capability in target]
    assert max(map(len, alone)) <= len(together) < 1.02 * max(map(len, alone))
    assert together not in alone


def own_kernels(plan: bytes) -> int:
    """The kernels that an engine brings as CUDA source, because no convolution has taken them in.

    The inspector needs a GPU. The plan is read instead; it holds each kernel in two forms.
    """
    return len(re.findall(rb"__global__ void __myl_\w+\(", plan)) // 2


def test_int8_brings_nothing_with_tensorrt_rtx(
    rtx: EngineFlavor, small_graph: ExportedGraph, images: np.ndarray
) -> None:
    """Behind each quantised convolution stands a kernel that quantises; in fp16 there is none."""
    half = build(rtx, model_bytes(to_fp16(small_graph.model), {}), "fp16").plan
    content = int8_bytes(small_graph, images)
    eight = build(rtx, content, "int8").plan
    convolutions = onnx.load_from_string(content).graph.node
    quantised = sum(node.op_type == "Conv" for node in convolutions)
    assert quantised >= 5
    assert own_kernels(half) <= 5
    assert own_kernels(eight) >= own_kernels(half) + quantised - 2
    assert len(eight) > len(half)
    assert "int8 brings nothing with tensorrt-rtx" in TENSORRT_RTX.doubts["int8"]


def test_built_precision_is_that_of_the_file_not_of_the_name(
    rtx: EngineFlavor, small_graph: ExportedGraph
) -> None:
    single = model_bytes(small_graph.model, {})
    with pytest.raises(VerificationError, match=r"asked for fp16, tensorrt-rtx .* built fp32"):
        build(rtx, single, "fp16")
    with pytest.raises(VerificationError, match=r"asked for fp32.* built fp16"):
        build(rtx, model_bytes(to_fp16(small_graph.model), {}), "fp32")


def test_what_the_parser_refuses_is_named(rtx: EngineFlavor, small_graph: ExportedGraph) -> None:
    """TensorRT can only cast uint8, so it has to refuse a graph that transposes before the cast."""
    model = small_graph.model.clone()
    cast = next(node for node in model.graph if node.op_type == "Cast")
    transpose = next(node for node in model.graph if node.op_type == "Transpose")
    transpose.replace_input_with(0, cast.inputs[0])
    for node in list(cast.outputs[0].uses()):
        node.node.replace_input_with(node.idx, transpose.outputs[0])
    content = ir.to_proto(model).SerializeToString()
    with pytest.raises(BackendError, match=r"cannot read model\.fp32\.onnx: node node_permute"):
        build(rtx, content, "fp32")


def test_what_is_no_onnx_file_is_refused(rtx: EngineFlavor) -> None:
    with pytest.raises(BackendError, match=r"tensorrt-rtx 1\.\S+ cannot read model\.fp32\.onnx"):
        build(rtx, b"not an onnx file", "fp32")


def test_capabilities(rtx: EngineFlavor) -> None:
    assert rtx.targets("8.6, 12.0,8.6") == (("8.6",), ("12.0",))
    with pytest.raises(UserError, match=r"9\.0 is unknown to tensorrt-rtx.*7\.5, 8\.0, 8\.6"):
        rtx.targets("8.6,9.0")


def test_an_engine_is_for_every_gpu_of_its_capability(
    rtx: EngineFlavor, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu("NVIDIA GeForce RTX 4090", "8.9", 24 << 30, "13.0")
    monkeypatch.setattr(flavors, "missing_gpu", lambda: None)
    monkeypatch.setattr(flavors, "find_gpu", lambda: gpu)
    assert rtx.targets(None) == (("8.9",),)
    assert rtx.gpu_name() is None
    assert rtx.unknown_gpu() is None


@pytest.mark.parametrize("capability", ["9.0", "10.0", "10.3"])  # H200, B200, B300
def test_a_gpu_that_is_unknown_gets_the_engine_of_a_machine_without_one(
    capability: str, rtx: EngineFlavor, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu("NVIDIA B200", capability, 180 << 30, "13.0")
    monkeypatch.setattr(flavors, "missing_gpu", lambda: None)
    monkeypatch.setattr(flavors, "find_gpu", lambda: gpu)
    assert rtx.targets(None) == (RTX_CAPABILITIES,)
    told = rtx.unknown_gpu()
    assert told is not None
    assert f"this GPU (NVIDIA B200, compute capability {capability})" in told
    with pytest.raises(UserError, match=rf"{re.escape(capability)} is unknown to tensorrt-rtx"):
        rtx.targets(capability)


def test_without_a_gpu_nothing_is_unknown(
    rtx: EngineFlavor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flavors, "missing_gpu", lambda: GpuError("no driver", remedy="install one"))
    assert rtx.unknown_gpu() is None


def test_an_engine_can_be_captured_in_a_cuda_graph(rtx: EngineFlavor) -> None:
    """In TensorRT-RTX this is sure only for engines whose memory the caller allocates."""
    config = rtx.trt.Builder(rtx.log).create_builder_config()
    flag = rtx.trt.BuilderFlag.REQUIRE_USER_ALLOCATION
    assert not config.get_flag(flag)
    rtx.configure(config, precision="fp16", target=("8.6",))
    assert config.get_flag(flag)


def test_an_int8_build_does_not_flood_the_log(
    rtx: EngineFlavor,
    small_graph: ExportedGraph,
    images: np.ndarray,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    content = int8_bytes(small_graph, images)
    with caplog.at_level(logging.WARNING):
        build(rtx, content, "int8")
    assert not [record for record in caplog.records if "tensorrt" in record.name]
    assert capfd.readouterr() == ("", "")


# Ctrl-C arrives while TensorRT's builder has called back into Python, as it does all the time.
INTERRUPTED_BUILD = """
import os, signal, sys
from export.engines.build_engine import BuildRequest, build_engine
from export.engines.flavors import load_flavor
from runtime.backends import tensorrt_library
from runtime.model.card import Profile

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job
tensorrt_library._log.debug = lambda *_: os.kill(os.getpid(), signal.SIGINT)
build_engine(load_flavor("tensorrt-rtx"), BuildRequest(
    model=open(sys.argv[1], "rb").read(), source="model.onnx", precision="fp32",
    profile=Profile(min=1, opt=8, max=64), input_size=32, target=("8.6",)))
print("built")
"""


def test_ctrl_c_ends_a_build(
    small_graph: ExportedGraph, tmp_path: Path, command: Callable[..., CompletedProcess[str]]
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(model_bytes(small_graph.model, {}))
    ended = command("-c", INTERRUPTED_BUILD, model, cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")
