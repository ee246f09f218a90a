"""TensorRT deserialises an engine to tell its precision, and the session takes it from there."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from export.engines import bundled_engines, flavors
from export.engines.bundled_engines import EngineOptions, add_engine
from export.engines.flavors import tensorrt_of_version
from runtime.backends import engine_session
from runtime.backends.engine_session import EngineSession
from runtime.backends.gpu import Gpu
from runtime.backends.tensorrt_library import LoadedEngine
from runtime.base.errors import BundleError
from runtime.model.bundle import open_bundle
from runtime.model.card import Parity, Profile


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[LoadedEngine | None]:
    """What the sessions that verify engines are given; none of them runs anything."""
    given: list[LoadedEngine | None] = []

    def verify(*_: Any, loaded: LoadedEngine | None = None) -> Parity:
        given.append(loaded)
        return Parity(images=1, top1=1.0, reference_top1=1.0, agreement=1.0, max_difference=0.0)

    monkeypatch.setattr(bundled_engines, "verify_engine", verify)
    monkeypatch.setattr(bundled_engines, "why_not_here", lambda *_: None)
    return given


@pytest.mark.parametrize("version", ["8.6.1", "10.3.0", "11.4.0"])
def test_an_engine_is_deserialised_once(
    version: str,
    bundle: Path,
    fake_trt: Callable[..., Any],
    sessions: list[LoadedEngine | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flavors, "find_gpu", lambda: Gpu("Orin", "8.7", 8 << 30, "12.6"))
    trt = fake_trt(version, "FP16")
    flavor = tensorrt_of_version(trt, SimpleNamespace(errors=[]))
    options = EngineOptions(profile=Profile(min=1, opt=8, max=64))
    record = add_engine(open_bundle(bundle), flavor, "fp16", ("8.7",), options, lambda _text: None)
    assert record.parity is not None
    assert trt.arguments_of("Runtime.deserialize_cuda_engine") == [(b"plan",)]
    (given,) = sessions
    assert given is not None
    assert type(given.engine).__name__ == "ICudaEngine"


def test_a_session_takes_the_engine_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on to look at the engine's tensors, and does not ask TensorRT to load the plan."""
    trt = SimpleNamespace(
        TensorIOMode=SimpleNamespace(INPUT="input", OUTPUT="output"),
        DataType=SimpleNamespace(UINT8="uint8", FLOAT="float"),
    )
    monkeypatch.setattr(engine_session, "load_tensorrt", lambda _flavor: trt)
    monkeypatch.setattr(engine_session, "tensorrt_logger", lambda _flavor: None)
    monkeypatch.setattr(engine_session, "Cuda", lambda: None)
    given = LoadedEngine(runtime=None, engine=SimpleNamespace(num_io_tensors=0))
    with pytest.raises(BundleError, match=r"model\.engine has the tensors \{\}"):
        EngineSession(
            b"plan",
            source="model.engine",
            flavor="tensorrt",
            profile=Profile(min=1, opt=1, max=1),
            loaded=given,
        )
