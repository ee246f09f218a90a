"""The benchmark of engines: only a GPU makes it mean anything, and there it must run."""

import functools
import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_tensorrt import (
    GPU,
    FakeEngine,
    FakeTrt,
    change_engine,
)

from runtime import (
    BackendError,
)
from runtime.model.bundle import open_bundle


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "engine_overhead.py"
    spec = importlib.util.spec_from_file_location("engine_overhead", path)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "engine_overhead", benchmark)
    spec.loader.exec_module(benchmark)
    return benchmark


def test_the_benchmark_measures_and_judges(
    trt: FakeTrt,
    benchmark: Any,
    toy_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(benchmark, "find_gpu", lambda: GPU)
    monkeypatch.setattr(benchmark, "load_tensorrt", lambda flavor: trt.module)
    quick = functools.partial(benchmark.typical_seconds, seconds=0.01)
    monkeypatch.setattr(benchmark, "typical_seconds", lambda call, _seconds=0: quick(call))
    bundle = tmp_path / "bundle"
    shutil.copytree(toy_bundle, bundle)
    change_engine(bundle, flavor=trt.flavor, tensorrt_version=trt.version)
    opened = open_bundle(bundle)
    (record,) = opened.card.engines
    found = benchmark.measure(opened, record, [0, 3], 0.05)
    assert [network["batch"] for network in found["network"]] == [1, 8, 16]
    assert [lanes["lanes"] for lanes in found["lanes"]] == [2, 3]
    assert trt.cuda.live == {}
    found["missed"] = benchmark.missed_targets(found)
    assert "lanes, batch 16" in benchmark._text(found)
    assert json.loads(json.dumps(found)) == found
    found |= {"arch": "mobilenetv2", "size": 224, "gpu": "NVIDIA H100", "precision": "fp16"}
    found["label_ms"]["prepared array to labels"] = found["network"][0]["graph_ms"] + 0.061
    found["lanes"][0]["images_per_second"] = 0.89 * found["network"][-1]["images_per_second"]
    late, share, slow = benchmark.missed_targets(found)
    assert "61 us more" in late
    assert "89.0%" in share
    assert "known: 0.191" in slow


@pytest.mark.parametrize(
    "call", ["deserialize_cuda_engine", "create_execution_context", "set_input_shape"]
)
def test_the_benchmark_names_the_call_that_failed(
    call: str,
    trt: FakeTrt,
    benchmark: Any,
    engine_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(benchmark, "load_tensorrt", lambda flavor: trt.module)
    content = b"plan"
    if call == "deserialize_cuda_engine":
        content = b"text"
    elif call == "create_execution_context":
        monkeypatch.setattr(FakeEngine, "_new_context", lambda *_: None)
    change_engine(engine_bundle, content, flavor=trt.flavor)
    opened = open_bundle(engine_bundle)
    (record,) = opened.card.engines
    with pytest.raises(BackendError, match=f"{call} failed: "):
        benchmark.EngineAlone(opened, record, 17)  # the profile ends at 16
