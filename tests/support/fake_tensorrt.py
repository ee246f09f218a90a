"""A stand-in for TensorRT: engines of the toy network, executed on the memory of the host.

It refuses every name that the surface of the chosen TensorRT version lacks
(tests/export/data/trt_api_*.json), keeps count of what is allocated, and executes "graphs" by
replaying the recorded steps, so that a wrong address, size or order shows.
"""

import ctypes
import hashlib
import json
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from fake_cuda import FakeCuda

from runtime.backends.engine_session import EngineSession
from runtime.backends.gpu import Gpu
from runtime.model.bundle import read_card, write_card
from runtime.model.card import EngineRecord, Profile

SURFACES = Path(__file__).parents[1] / "export" / "data"
VERSIONS = ("8.6.2", "10.3.0", "10.16.1", "11.4.0")
PROFILE = Profile(min=1, opt=4, max=16)
SIZE, CLASSES = 32, 3
GPU = Gpu("NVIDIA L4", "8.9", 24 << 30, "13.0")


class Surface:
    """Base of the stand-ins: a name that the version lacks is an error of ours, and fails."""

    names: frozenset[str] = frozenset()

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            allowed = object.__getattribute__(self, "names")
            if name not in allowed:
                raise AttributeError(f"{type(self).__name__} of this version has no {name}")
        return object.__getattribute__(self, name)


class FakeContext(Surface):
    def __init__(self, fake: "FakeTrt") -> None:
        self._fake = fake
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}
        self._memory = 0
        self._profile = 0
        self._cache: FakeRuntimeCache | None = None
        fake.contexts.append(self)

    @property
    def active_optimization_profile(self) -> int:
        return self._profile

    @property
    def device_memory(self) -> int:
        return self._memory

    @device_memory.setter
    def device_memory(self, address: int) -> None:
        assert address in self._fake.cuda.live
        self._memory = address

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        if not self._fake.profile_sharing:  # NVIDIA's bindings never return False here
            raise RuntimeError("Error in set optimization profile async.")
        self._profile = index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = shape
        profile = self._fake.profile
        return name == "images" and profile[0] <= shape[0] <= profile[2] and self._profile == 0

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return name in ("images", "probabilities")

    def is_stream_capturable(self, stream: int) -> bool:
        return self._fake.capturable

    def execute_async_v3(self, stream: int) -> bool:
        assert self._memory, "no scratch memory was given"
        if self._fake.fail_execute:
            self._fake.logger.log(self._fake.module.ILogger.ERROR, "cuTensor\nproblem")
            return False
        batch = self._shape[0]
        self._fake.executed.append(batch)
        if self._cache is not None and batch not in self._cache.kernels:
            self._cache.kernels.add(batch)
            self._fake.compiled.append(batch)
        self._fake.cuda.submit(stream, lambda: self._compute(batch))
        return True

    def _compute(self, batch: int) -> None:
        images = np.frombuffer(
            (ctypes.c_ubyte * (batch * SIZE * SIZE * 3)).from_address(self._addresses["images"]),
            np.uint8,
        ).reshape(batch, -1, 3)
        rows = np.frombuffer(
            (ctypes.c_float * (batch * CLASSES)).from_address(self._addresses["probabilities"]),
            np.float32,
        ).reshape(batch, CLASSES)
        total = images.sum(axis=1)
        rows[:] = total / np.maximum(total.sum(axis=1, keepdims=True), 1)


class FakeEngine(Surface):
    device_memory_size = device_memory_size_v2 = 1000
    num_io_tensors = 2

    def __init__(self, fake: "FakeTrt") -> None:
        self._fake = fake
        self._made_one = False

    def get_tensor_name(self, index: int) -> str:
        return ("images", "probabilities")[index]

    def get_tensor_mode(self, name: str) -> object:
        modes = self._fake.module.TensorIOMode
        return modes.INPUT if name == "images" else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> object:
        return self._fake.input_type if name == "images" else self._fake.module.DataType.FLOAT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, SIZE, SIZE, 3) if name == "images" else (-1, CLASSES)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        return [(batch, SIZE, SIZE, 3) for batch in self._fake.profile]

    def create_execution_context_without_device_memory(self) -> FakeContext:
        return self._new_context()

    def create_execution_context(self, strategy: object) -> FakeContext:
        if self._fake.flavor == "tensorrt-rtx":
            assert isinstance(strategy, FakeConfig)
            assert strategy._strategy == "USER_MANAGED"
            assert strategy.dynamic_shapes_kernel_specialization_strategy == "EAGER"
            return self._new_context(strategy._cache)
        assert strategy == "USER_MANAGED"
        return self._new_context()

    def _new_context(self, cache: "FakeRuntimeCache | None" = None) -> FakeContext:
        context = self._fake.types["IExecutionContext"](self._fake)
        context._cache = cache
        if self._made_one and self._fake.version.startswith("8."):
            context._profile = -1  # an engine's first context has the profile
        self._made_one = True
        return context

    def create_runtime_config(self) -> "FakeConfig":
        return FakeConfig(self._fake)


class FakeConfig:
    dynamic_shapes_kernel_specialization_strategy = "LAZY"
    _strategy = "STATIC"
    _cache: "FakeRuntimeCache | None" = None

    def __init__(self, fake: "FakeTrt") -> None:
        self._fake = fake

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self._strategy = strategy

    def create_runtime_cache(self) -> "FakeRuntimeCache":
        return FakeRuntimeCache(self._fake)

    def set_runtime_cache(self, cache: "FakeRuntimeCache") -> bool:
        self._cache = cache
        return True


class FakeRuntimeCache:
    """Kernels are the batch sizes that they were compiled for, after the driver's version."""

    def __init__(self, fake: "FakeTrt") -> None:
        self._fake = fake
        self.kernels: set[int] = set()
        fake.caches.append(weakref.ref(self))

    def serialize(self) -> memoryview:
        return memoryview(json.dumps([self._fake.driver, *sorted(self.kernels)]).encode())

    def deserialize(self, blob: bytes) -> bool:
        driver, *kernels = json.loads(blob)
        if driver != self._fake.driver:
            self._fake.logger.log(self._fake.module.ILogger.ERROR, "another driver")
            return False
        self.kernels.update(kernels)
        return True


class FakeTrt:
    """What `import tensorrt` gives, limited to one version's surface."""

    def __init__(self, version: str, flavor: str, cuda: FakeCuda) -> None:
        self.version, self.flavor, self.cuda = version, flavor, cuda
        self.profile = (PROFILE.min, PROFILE.opt, PROFILE.max)
        self.contexts: list[FakeContext] = []
        self.executed: list[int] = []
        self.deserialised: list[bytes] = []
        self.compiled: list[int] = []
        self.caches: list[weakref.ref[FakeRuntimeCache]] = []
        self.driver = "580.65"
        self.fail_execute = False
        self.profile_sharing = True
        self.capturable = True
        self.types = {
            kind.__name__: type(kind.__name__, (kind,), {"names": surface(version, name, flavor)})
            for kind, name in ((FakeContext, "IExecutionContext"), (FakeEngine, "ICudaEngine"))
        }
        self.types["IExecutionContext"] = self.types.pop("FakeContext")
        self.module = self.make_module()
        self.input_type = self.module.DataType.UINT8

    def make_module(self) -> Any:
        fake = self

        class ILogger:
            INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)

        class Runtime:
            def __init__(self, logger: Any) -> None:
                fake.logger = logger

            def deserialize_cuda_engine(self, plan: bytes) -> Any:
                fake.deserialised.append(plan)
                if not plan.startswith(b"plan"):
                    fake.logger.log(ILogger.ERROR, "Magic tag does not match")
                    return None
                return fake.types["FakeEngine"](fake)

        module = SimpleNamespace(
            __version__=self.version,
            ILogger=ILogger,
            Runtime=Runtime,
            TensorIOMode=SimpleNamespace(INPUT="input", OUTPUT="output"),
            DataType=SimpleNamespace(UINT8="uint8", FLOAT="float", HALF="half"),
        )
        if not self.version.startswith("8."):
            module.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="USER_MANAGED")
        if self.flavor == "tensorrt-rtx":
            module.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="EAGER")
            module.IRuntimeCache = FakeRuntimeCache
        return module


def surface(version: str, name: str, flavor: str) -> frozenset[str]:
    """Names of a class in one version; 8.6.2 has those of 8.6.1.

    TensorRT-RTX 1.7 is of the 11 generation with a few names of its own.
    """
    known = "8.6.1" if version.startswith("8.") else version
    names = set(json.loads((SURFACES / f"trt_api_{known}.json").read_text())[name]["members"])
    if flavor == "tensorrt-rtx":
        names |= {"is_stream_capturable"}
    return frozenset(names)


def install(fake: FakeTrt, monkeypatch: pytest.MonkeyPatch) -> FakeTrt:
    from runtime.backends import (
        cuda_runtime,
        engine_session,
        gpu,
        kernel_cache,
        preflight,
        tensorrt_library,
    )

    tensorrt_library.tensorrt_logger.cache_clear()
    for module in (tensorrt_library, engine_session, preflight):
        monkeypatch.setattr(module, "load_tensorrt", lambda flavor: fake.module)
    monkeypatch.setattr(preflight, "is_installed", lambda flavor: flavor == fake.flavor)
    monkeypatch.setattr(preflight, "bindings_are_installed", lambda: True)
    monkeypatch.setattr(cuda_runtime, "bindings_version", lambda: "13.0.3")
    for module in (gpu, preflight, kernel_cache):
        monkeypatch.setattr(module, "find_gpu", lambda: GPU)
    return fake


def open_session(fake: FakeTrt, plan: bytes = b"plan") -> EngineSession:
    return EngineSession(plan, source="m.engine", flavor=fake.flavor, profile=PROFILE)  # type: ignore[arg-type]


def batch(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(1, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def expected(images: np.ndarray) -> np.ndarray:
    total = images.reshape(len(images), -1, 3).sum(axis=1)
    return (total / total.sum(axis=1, keepdims=True)).astype(np.float32)


def change_engine(bundle: Path, content: bytes = b"plan", **changes: Any) -> None:
    from runtime.backends.preflight import this_platform

    card = read_card(bundle)
    file = card.file("fp16")
    assert file is not None
    record = EngineRecord(
        path="engines/model.fp16.tensorrt.sm89.engine",
        sha256=hashlib.sha256(content).hexdigest(),
        precision="fp16",
        flavor="tensorrt",
        tensorrt_version="11.4.0",
        compute_capability=("8.9",),
        gpu_name="NVIDIA L4",
        platform=this_platform(),
        profile=PROFILE,
        onnx_sha256=file.sha256,
    )
    record = msgspec.structs.replace(record, **changes)
    (bundle / "engines").mkdir(exist_ok=True)
    (bundle / record.path).write_bytes(content)
    write_card(bundle, msgspec.structs.replace(card, engines=(record,)))
