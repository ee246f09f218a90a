"""A stand-in for TensorRT that has the names of one version and no others."""

import json
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

SURFACES = Path(__file__).parents[1] / "data"


class FakeTrt:
    """Classes and enums of a TensorRT version; a name that it lacks is an AttributeError.

    `answers` maps "Class.member" to what it gives: a function of the object and the arguments, or
    a value. `calls` records the calls and settings, in order, as (member, arguments).
    """

    def __init__(self, version: str) -> None:
        surface = json.loads((SURFACES / f"trt_api_{version}.json").read_text())
        self.__version__ = surface["version"]
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.answers: dict[str, Any] = {}
        for name, entry in surface.items():
            if isinstance(entry, dict) and "enum" in entry:
                members = {member: value for value, member in enumerate(entry["enum"])}
                setattr(self, name, IntEnum(name, members))
            elif isinstance(entry, dict):
                setattr(self, name, self._stand_in(name, set(entry["members"])))

    def _stand_in(self, name: str, members: set[str]) -> type:
        fake = self

        class StandIn:
            def __init__(self, *arguments: Any) -> None:
                assert "__init__" in members
                fake.calls.append((name, arguments))

            def __getattr__(self, member: str) -> Any:
                if member not in members:
                    raise AttributeError(f"TensorRT {fake.__version__} has no {name}.{member}")
                answer = fake.answers.get(f"{name}.{member}")
                if answer is not None and not callable(answer):
                    return answer
                return lambda *arguments: fake.called(self, name, member, answer, arguments)

            def __setattr__(self, member: str, value: Any) -> None:
                if member not in members:
                    raise AttributeError(f"TensorRT {fake.__version__} has no {name}.{member}")
                fake.calls.append((f"{name}.{member}", (value,)))

        StandIn.__name__ = name
        return StandIn

    def called(
        self, owner: Any, name: str, member: str, answer: Any, arguments: tuple[Any, ...]
    ) -> Any:
        self.calls.append((f"{name}.{member}", arguments))
        return None if answer is None else answer(owner, *arguments)

    def arguments_of(self, call: str) -> list[tuple[Any, ...]]:
        return [arguments for name, arguments in self.calls if name == call]


@pytest.fixture
def fake_trt() -> Callable[[str], FakeTrt]:
    """A stand-in that parses everything and builds `built`, a plan of the wanted precision."""

    def make(version: str, built: str = "FP32") -> FakeTrt:
        fake = FakeTrt(version)
        kinds = {"FP32": "FLOAT", "FP16": "HALF", "Int8": "INT8"}
        tensor = SimpleNamespace(dtype=fake.DataType[kinds[built]])
        layer = SimpleNamespace(num_outputs=1, get_output=lambda _index: tensor)
        described = json.dumps({"Outputs": [{"Format/Datatype": f"Row major linear {built}"}]})
        fake.answers = {
            "Builder.create_network": lambda *_: fake.INetworkDefinition(),
            "Builder.create_builder_config": lambda *_: fake.IBuilderConfig(),
            "Builder.create_optimization_profile": lambda *_: fake.IOptimizationProfile(),
            "Builder.build_serialized_network": lambda *_: b"plan",
            "OnnxParser.parse": lambda *_: True,
            "OnnxParser.num_errors": 1,
            "OnnxParser.get_error": lambda *_: fake.ParserError(),
            "ParserError.desc": lambda *_: "unsupported",
            "ParserError.node": lambda *_: 7,
            "ParserError.node_name": lambda *_: "node_Conv_7",
            "ParserError.node_operator": lambda *_: "Conv",
            "INetworkDefinition.num_layers": 1,
            "INetworkDefinition.get_layer": lambda *_: layer,
            "IBuilderConfig.add_optimization_profile": lambda *_: 0,
            "IBuilderConfig.get_tactic_sources": lambda *_: 0b11111,
            "IBuilderConfig.create_timing_cache": lambda *_: fake.ITimingCache(),
            "IBuilderConfig.set_timing_cache": lambda *_: True,
            "IBuilderConfig.get_timing_cache": lambda *_: fake.ITimingCache(),
            "ITimingCache.serialize": lambda *_: b"timings",
            "Runtime.deserialize_cuda_engine": lambda *_: fake.ICudaEngine(),
            "ICudaEngine.create_engine_inspector": lambda *_: fake.EngineInspector(),
            "ICudaEngine.create_execution_context": lambda *_: fake.IExecutionContext(),
            "ICudaEngine.get_tensor_profile_shape": lambda *_: [(n, 32, 32, 3) for n in (1, 8, 64)],
            "IExecutionContext.set_input_shape": lambda *_: True,
            "EngineInspector.get_engine_information": lambda *_: described,
        }
        return fake

    return make
