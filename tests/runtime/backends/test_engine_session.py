# ruff: noqa: N802, N815  (the names of CUDA)
"""Engine sessions and their preflight on a stand-in for TensorRT and CUDA.

The stand-in refuses every name that the surface of the chosen TensorRT version lacks
(tests/export/data/trt_api_*.json), keeps count of what is allocated, and executes "graphs" by
replaying the recorded steps on host memory, so that a wrong address, size or order shows.
"""

import contextlib
import ctypes
import functools
import gc
import hashlib
import importlib.util
import itertools
import json
import shutil
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from export.engines.verify import verify_engine
from runtime import (
    BackendError,
    BundleError,
    Classifier,
    EngineMismatchError,
    UserError,
    open_classifier,
)
from runtime.backends.cuda_runtime import Cuda
from runtime.backends.engine_session import EngineSession
from runtime.backends.engine_slot import graph_batch
from runtime.backends.gpu import Gpu
from runtime.model.bundle import open_bundle, read_card, write_card
from runtime.model.card import EngineRecord, Profile
from runtime.model.holdout import Labelled

SURFACES = Path(__file__).parents[2] / "export" / "data"
VERSIONS = ("8.6.2", "10.3.0", "10.16.1", "11.4.0")
PROFILE = Profile(min=1, opt=4, max=16)
SIZE, CLASSES = 32, 3
GPU = Gpu("NVIDIA L4", "8.9", 24 << 30, "13.0")


class FakeCuda:
    """`cuda.bindings.runtime` on host memory. Every call returns (status, value)."""

    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaError_t = SimpleNamespace(cudaSuccess=0)

    def __init__(self) -> None:
        self.live: dict[object, object] = {}  # what was made and not destroyed
        self.capturing: dict[int, list[Callable[[], None]]] = {}
        self.fail: str | None = None
        self.log: list[str] = []
        self.streams = itertools.count(7000)
        self.lock = threading.Lock()

    def status(self, name: str) -> int:
        with self.lock:
            self.log.append(name)
        return 700 if name == self.fail else 0

    def make(self, name: str, thing: Any, address: int) -> tuple[int, object]:
        if status := self.status(name):
            return status, None
        self.live[address] = thing
        return 0, address

    def drop(self, name: str, address: int) -> tuple[int]:
        assert address in self.live, f"{name} of something that is not there"
        del self.live[address]
        return (self.status(name),)

    def allocate(self, name: str, size: int) -> tuple[int, object]:
        buffer = (ctypes.c_ubyte * size)()
        return self.make(name, buffer, ctypes.addressof(buffer))

    def cudaGetErrorString(self, status: int) -> tuple[int, bytes]:
        return 0, b"an illegal memory access was encountered"

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, object]:
        assert flags == self.cudaStreamNonBlocking
        return self.make("cudaStreamCreateWithFlags", "stream", next(self.streams))

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        return self.drop("cudaStreamDestroy", stream)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        assert stream not in self.capturing, "not allowed while capturing"
        return (self.status("cudaStreamSynchronize"),)

    def cudaMalloc(self, size: int) -> tuple[int, object]:
        return self.allocate("cudaMalloc", size)

    def cudaFree(self, address: int) -> tuple[int]:
        return self.drop("cudaFree", address)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[int, object]:
        return self.allocate("cudaHostAlloc", size)

    def cudaFreeHost(self, address: int) -> tuple[int]:
        return self.drop("cudaFreeHost", address)

    def cudaMemcpyAsync(
        self, target: int, source: int, size: int, kind: int, stream: int
    ) -> tuple[int]:
        self.submit(stream, lambda: ctypes.memmove(target, source, size))
        return (self.status("cudaMemcpyAsync"),)

    def cudaEventCreate(self) -> tuple[int, object]:
        return self.make("cudaEventCreate", "event", next(self.streams))

    def cudaEventRecord(self, event: int, stream: int) -> tuple[int]:
        return (self.status("cudaEventRecord"),)

    def cudaEventElapsedTime(self, begin: int, end: int) -> tuple[int, float]:
        return self.status("cudaEventElapsedTime"), 100.0  # between any two

    def cudaEventDestroy(self, event: int) -> tuple[int]:
        return self.drop("cudaEventDestroy", event)

    def submit(self, stream: int, work: Callable[[], Any]) -> None:
        if stream in self.capturing:
            self.capturing[stream].append(work)
        else:
            work()

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:
        assert mode == self.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        if not (status := self.status("cudaStreamBeginCapture")):
            self.capturing[stream] = []
        return (status,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, object]:
        steps = self.capturing.pop(stream)
        return self.make("cudaStreamEndCapture", steps, id(steps))

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int, object]:
        steps = self.live[graph]
        return self.make("cudaGraphInstantiate", steps, graph + 1)

    def cudaGraphDestroy(self, graph: int) -> tuple[int]:
        return self.drop("cudaGraphDestroy", graph)

    def cudaGraphExecDestroy(self, graph: int) -> tuple[int]:
        return self.drop("cudaGraphExecDestroy", graph)

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[int]:
        for step in self.live[graph]:  # type: ignore[attr-defined]
            step()
        return (self.status("cudaGraphLaunch"),)


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


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()

    def use_fake(self: Cuda) -> None:
        self._api = fake

    monkeypatch.setattr(Cuda, "__init__", use_fake)
    return fake


@pytest.fixture(
    params=[("tensorrt", version) for version in VERSIONS] + [("tensorrt-rtx", "11.4.0")],
    ids=lambda value: " ".join(value),
)
def trt(request: pytest.FixtureRequest, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeTrt:
    flavor, version = request.param
    return install(FakeTrt(version, flavor, cuda), monkeypatch)


@pytest.fixture
def rtx(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeTrt:
    return install(FakeTrt("11.4.0", "tensorrt-rtx", cuda), monkeypatch)


@pytest.fixture(autouse=True)
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where compiled kernels are kept."""
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


@pytest.fixture
def trt11(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeTrt:
    return install(FakeTrt("11.4.0", "tensorrt", cuda), monkeypatch)


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


def test_answers_are_right_on_every_version(trt: FakeTrt) -> None:
    with open_session(trt) as session:
        assert (session.input_size, session.num_classes, session.max_batch) == (SIZE, CLASSES, 16)
        for count in (1, 3, 16, 5, 1, 9):
            images = batch(count)
            assert np.allclose(session.run(images), expected(images))
        with pytest.raises(UserError, match="at most 16"):
            session.run(batch(17))
    assert trt.cuda.live == {}


def test_a_warm_call_is_one_launch_and_allocates_nothing(trt11: FakeTrt) -> None:
    with open_session(trt11) as session:
        session.warm_up(1, 4)
        contexts, executed = len(trt11.contexts), len(trt11.executed)
        trt11.cuda.log.clear()
        for _ in range(10):
            session.run(batch(1))
            session.run(batch(4))
        assert set(trt11.cuda.log) == {"cudaGraphLaunch", "cudaStreamSynchronize"}
        assert len(trt11.cuda.log) == 40
        assert (len(trt11.contexts), len(trt11.executed)) == (contexts, executed)


def test_each_result_is_the_callers_own(trt11: FakeTrt) -> None:
    with open_session(trt11) as session:
        first = session.run(batch(4))
        kept = first.copy()
        session.run(batch(3))
        assert np.array_equal(first, kept)


def test_graphs_share_scratch_memory_and_not_contexts(trt11: FakeTrt) -> None:
    with open_session(trt11) as session:
        session.warm_up(1, 2, 3)
        assert len(trt11.contexts) == 2 * 3
        assert len({context.device_memory for context in trt11.contexts}) == 2


def test_a_graph_that_cannot_be_made_leaves_nothing_behind(trt11: FakeTrt) -> None:
    """Else a server whose GPU is full would keep a context for every request that failed."""
    with open_session(trt11) as session:
        trt11.cuda.fail = "cudaStreamEndCapture"
        for _ in range(6):
            with pytest.raises(BackendError):
                session.run(batch(2))
        trt11.cuda.fail = None
        slots = [session._slots.get() for _ in range(session.lanes)]
        assert [slot._contexts for slot in slots] == [[], []]
        for slot in slots:
            session._slots.put(slot)
        assert np.allclose(session.run(batch(2)), expected(batch(2)))
    assert trt11.cuda.live == {}


def test_without_capture_the_steps_are_enqueued(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = install(FakeTrt("11.4.0", "tensorrt-rtx", cuda), monkeypatch)
    fake.capturable = False
    with open_session(fake) as session:
        images = batch(2)
        session.run(images)
        assert np.allclose(session.run(images), expected(images))
    assert "cudaGraphLaunch" not in cuda.log
    assert cuda.live == {}


def test_threads_do_not_mix_their_batches(trt11: FakeTrt) -> None:
    wrong: list[int] = []

    def client(count: int) -> None:
        for _ in range(50):
            images = batch(count)
            if not np.allclose(session.run(images), expected(images)):
                wrong.append(count)

    with open_session(trt11) as session:
        session.warm_up(*range(1, 9))
        threads = [threading.Thread(target=client, args=(count,)) for count in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_two_that_want_all_lanes_do_not_wait_for_each_other(trt11: FakeTrt) -> None:
    with open_session(trt11) as session:
        session.warm_up(1)
        slots, first = session._slots, threading.Barrier(2)

        class Slow:
            """Hands out a lane, then waits for the other thread to have had its chance."""

            def get(self) -> Any:
                slot = slots.get()
                with contextlib.suppress(threading.BrokenBarrierError):
                    first.wait(timeout=0.2)
                return slot

            put = slots.put

        session._slots = Slow()  # type: ignore[assignment]
        threads = [
            threading.Thread(target=session.warm_up, args=(2,), daemon=True) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=10)
        assert not any(thread.is_alive() for thread in threads)
        session._slots = slots


def test_one_lane_at_a_time_prepares_a_batch_size(trt11: FakeTrt) -> None:
    busy, most = [0], [0]

    class Context(trt11.types["IExecutionContext"]):  # type: ignore[misc,name-defined]
        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
            time.sleep(0.02)
            busy[0] -= 1
            return bool(super().set_input_shape(name, shape))

    trt11.types["IExecutionContext"] = Context
    with open_session(trt11) as session:
        clients = [threading.Thread(target=session.run, args=(batch(n),)) for n in (1, 2, 3, 4)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
    assert most == [1]


def test_a_batch_that_is_too_large_to_warm_up_is_the_callers_mistake(trt11: FakeTrt) -> None:
    with open_session(trt11) as session, pytest.raises(UserError, match=r"17 images.*at most 16"):
        session.warm_up(1, 17)
    assert trt11.executed == []


def test_a_closed_session_is_not_warmed_up(trt11: FakeTrt) -> None:
    session = open_session(trt11)
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.warm_up(1)
    session.close()


def test_a_closed_session_lets_go_of_the_engine(trt11: FakeTrt) -> None:
    session = open_session(trt11)
    session.run(batch(2))
    engine = weakref.ref(session._keep[1])
    assert engine() is not None
    session.close()
    trt11.contexts.clear()
    gc.collect()
    assert engine() is None


def test_every_failing_cuda_call_is_reported_and_nothing_leaks(trt11: FakeTrt) -> None:
    with open_session(trt11) as session:
        session.run(batch(2))
    makers = {"cudaStreamCreateWithFlags", "cudaMalloc", "cudaHostAlloc"}
    workers = {
        "cudaMemcpyAsync",
        "cudaStreamSynchronize",
        "cudaStreamBeginCapture",
        "cudaStreamEndCapture",
        "cudaGraphInstantiate",
        "cudaGraphLaunch",
    }
    assert makers | workers <= set(trt11.cuda.log)
    for name in makers:
        trt11.cuda.fail = name
        with pytest.raises(BackendError, match=f"{name} failed: an illegal memory access"):
            open_session(trt11)
        assert trt11.cuda.live == {}
    for name in workers:
        trt11.cuda.fail = None
        with open_session(trt11) as session:
            trt11.cuda.fail = name
            with pytest.raises(BackendError, match=f"{name} failed"):
                session.run(batch(2))
            trt11.cuda.fail = None
        assert trt11.cuda.live == {}


def test_a_failure_while_capturing_leaves_nothing_behind(trt11: FakeTrt) -> None:
    class Context(trt11.types["IExecutionContext"]):  # type: ignore[misc,name-defined]
        def execute_async_v3(self, stream: int) -> bool:
            return stream not in trt11.cuda.capturing and super().execute_async_v3(stream)

    trt11.types["IExecutionContext"] = Context
    with open_session(trt11) as session:
        with pytest.raises(BackendError, match="execute_async_v3 failed"):
            session.run(batch(1))
        assert not trt11.cuda.capturing
    assert trt11.cuda.live == {}


def test_an_error_is_said_once(trt11: FakeTrt, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"), pytest.raises(BundleError, match="Magic tag"):
        open_session(trt11, b"text")
    assert caplog.records == []  # without handlers, logging would print it beside the error's line


def test_tensorrts_own_failures_are_reported_with_its_words(trt11: FakeTrt) -> None:
    with pytest.raises(BundleError, match=r"11\.4\.0 refuses m\.engine: Magic tag.*build_trt"):
        open_session(trt11, b"text")
    with open_session(trt11) as session:
        trt11.fail_execute = True
        with pytest.raises(BackendError, match="execute_async_v3 failed: cuTensor problem"):
            session.run(batch(1))
        trt11.fail_execute = False
        images = batch(1)
        assert np.allclose(session.run(images), expected(images))
    with pytest.raises(BackendError, match="closed"):
        session.run(batch(1))
    session.close()


def test_8_6_is_repeated_where_it_only_warns_of_its_failure(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.backends.tensorrt_library import last_errors, tensorrt_logger

    fake = install(FakeTrt("8.6.2", "tensorrt", cuda), monkeypatch)
    logger = tensorrt_logger("tensorrt")
    logger.log(fake.module.ILogger.WARNING, "CUDA lazy loading is not enabled")
    assert last_errors(logger) == "TensorRT gave no reason"
    logger.log(fake.module.ILogger.WARNING, "CUDA initialization failure with error: 35")
    assert last_errors(logger) == "CUDA initialization failure with error: 35"


def test_8_6_without_profile_sharing_is_reported(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = install(FakeTrt("8.6.2", "tensorrt", cuda), monkeypatch)
    fake.profile_sharing = False
    with open_session(fake) as session:
        session.run(batch(1))
        with pytest.raises(BackendError, match="set_optimization_profile_async failed"):
            session.run(batch(2))
    assert cuda.live == {}


def test_foreign_engines_are_refused(trt11: FakeTrt) -> None:
    trt11.input_type = trt11.module.DataType.HALF
    with pytest.raises(BundleError, match="expected uint8 images"):
        open_session(trt11)
    trt11.input_type = trt11.module.DataType.UINT8
    trt11.profile = (1, 8, 64)
    with pytest.raises(BundleError, match=r"batches of \(1, 8, 64\).*\(1, 4, 16\)"):
        open_session(trt11)
    assert trt11.cuda.live == {}


def test_graph_sizes_cost_at_most_a_quarter() -> None:
    wide = Profile(min=1, opt=8, max=100)
    sizes = {count: graph_batch(count, wide) for count in range(1, 101)}
    assert all(sizes[count] == count for count in range(1, 9))
    assert all(count <= size <= 1.25 * count for count, size in sizes.items())
    assert len(set(sizes.values())) < 30
    assert graph_batch(2, Profile(min=4, opt=4, max=6)) == 4
    assert graph_batch(6, Profile(min=4, opt=4, max=6)) == 6


@pytest.mark.parametrize("images", [3, 21])
def test_an_engine_is_verified_on_every_holdout_image(trt11: FakeTrt, images: int) -> None:
    trt11.profile = (8, 8, 16)
    shown = batch(images)
    record = SimpleNamespace(
        path="m.engine", flavor="tensorrt", profile=Profile(min=8, opt=8, max=16)
    )
    rows = expected(shown)
    parity = verify_engine(b"plan", record, Labelled(shown, rows.argmax(axis=1), rows))  # type: ignore[arg-type]
    assert (parity.images, parity.agreement) == (images, 1)


# --- kernels that TensorRT-RTX compiled ----------------------------------------------------------


def run_once(fake: FakeTrt, plan: bytes = b"plan") -> list[int]:
    """The batch sizes whose kernels were compiled to answer 2 and 5 images."""
    fake.compiled.clear()
    session = open_session(fake, plan)
    for count in (2, 5):
        assert np.allclose(session.run(batch(count)), expected(batch(count)))
    session.close()
    assert fake.cuda.live == {}
    fake.contexts.clear()
    gc.collect()
    assert [cache() for cache in fake.caches if cache() is not None] == []
    return fake.compiled


def test_kernels_are_compiled_once_for_all_lanes_and_starts(rtx: FakeTrt, kernels: Path) -> None:
    with open_session(rtx) as session:
        session.warm_up(1, 2)
        assert rtx.compiled == [1, 2]  # by the first of two lanes
        (kept,) = kernels.iterdir()  # before the end, which may be a sudden one
    assert run_once(rtx) == [5]
    before = kept.stat().st_mtime_ns
    assert run_once(rtx) == []
    assert kept.stat().st_mtime_ns == before, "nothing new, and written all the same"
    assert list(kernels.iterdir()) == [kept]


def test_kernels_are_of_one_engine_gpu_and_version(
    rtx: FakeTrt, kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.backends import kernel_cache

    assert run_once(rtx) == [2, 5]
    assert run_once(rtx, b"plan of another engine") == [2, 5]
    rtx.module.__version__ = "11.5.0"
    assert run_once(rtx) == [2, 5]
    monkeypatch.setattr(kernel_cache, "find_gpu", lambda: Gpu("NVIDIA L40", "8.9", 1, "13.0"))
    assert run_once(rtx) == [2, 5]
    assert len(list(kernels.iterdir())) == 4


@pytest.mark.parametrize("damage", ["empty", "truncated", "foreign"])
def test_damaged_kernels_never_reach_tensorrt(
    damage: str, rtx: FakeTrt, kernels: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_once(rtx)
    (kept,) = kernels.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes({"empty": b"", "truncated": whole[:-1], "foreign": b"x" * 99}[damage])
    assert run_once(rtx) == [2, 5]
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"{kept} is damaged; TensorRT-RTX compiles the kernels again"
    ]
    assert kept.read_bytes() == whole


def test_kernels_that_tensorrt_refuses_are_replaced(
    rtx: FakeTrt, kernels: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_once(rtx)
    rtx.driver = "590.10"
    assert run_once(rtx) == [2, 5]
    (kept,) = kernels.iterdir()
    assert f"{kept} does not fit this machine (another driver); TensorRT-RTX" in caplog.text
    assert not rtx.logger.errors, "said again by the next failure"
    assert run_once(rtx) == []


def test_a_folder_that_cannot_be_written_costs_time_only(
    rtx: FakeTrt, kernels: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kernels.parent.write_text("a file where the folder should be")
    assert run_once(rtx) == [2, 5]
    assert run_once(rtx) == [2, 5]
    assert "cannot be written (" in caplog.text


def test_a_user_without_a_home_has_no_kernels_kept(
    rtx: FakeTrt, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SKD_EDGE_CACHE")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 12345)
    with open_session(rtx) as session:
        assert np.allclose(session.run(batch(2)), expected(batch(2)))
    assert "there is no home folder for the cache ~/.cache/skd-edge" in caplog.text
    assert "; TensorRT-RTX compiles the kernels again at every start" in caplog.text


def test_a_cache_that_tensorrt_will_not_use_costs_time_only(
    rtx: FakeTrt, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeConfig, "set_runtime_cache", lambda *_: False)
    monkeypatch.setattr(FakeRuntimeCache, "serialize", lambda _: None)
    run_once(rtx)
    assert "is not used: set_runtime_cache failed, TensorRT gave no reason" in caplog.text
    assert "is not written: serialize failed" in caplog.text
    caplog.clear()
    monkeypatch.setattr(FakeConfig, "create_runtime_cache", lambda _: None)
    run_once(rtx)
    assert "create_runtime_cache failed: TensorRT gave no reason" in caplog.text


def test_the_other_tensorrt_keeps_no_kernels(trt11: FakeTrt, kernels: Path) -> None:
    run_once(trt11)
    assert not kernels.exists()


def test_the_names_of_the_stand_in_are_tensorrt_rtxs_own() -> None:
    real = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed (extra `rtx`)")
    for stand_in, kind in (
        (FakeConfig, real.IRuntimeConfig),
        (FakeRuntimeCache, real.IRuntimeCache),
    ):
        public = {name for name in vars(stand_in) if not name.startswith("_")}
        assert public <= set(dir(kind))


# --- the benchmark, which needs a GPU to mean anything, and must run when there is one -----------


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


# --- preflight -----------------------------------------------------------------------------------


@pytest.fixture
def engine_bundle(toy_bundle: Path, tmp_path: Path) -> Path:
    """The toy bundle with an engine for this stand-in machine."""
    bundle = tmp_path / "bundle"
    shutil.copytree(toy_bundle, bundle)
    change_engine(bundle)
    return bundle


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


def test_a_fitting_engine_is_chosen_and_runs(trt11: FakeTrt, engine_bundle: Path) -> None:
    with open_classifier(engine_bundle) as classifier:
        assert isinstance(classifier, Classifier)
        assert (classifier.backend, classifier.precision) == ("tensorrt", "fp16")
        assert classifier.source.endswith("model.fp16.tensorrt.sm89.engine")
        assert classifier.classify(engine_bundle / "examples" / "red.png")[0].label == "red"
        images = [engine_bundle / "examples" / "blue.png"] * 40
        labels = [answer[0].label for answer in classifier.classify_batch(images)]
        assert labels == ["blue"] * 40
    assert trt11.cuda.live == {}


def test_all_cores_decode_for_an_engine_that_takes_large_batches(
    trt11: FakeTrt, engine_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.base import parallel as pipeline

    monkeypatch.setattr(pipeline, "usable_cores", lambda: 8)
    workers: set[int] = set()

    def prepare(image: np.ndarray, *, name: str | None) -> np.ndarray:
        workers.add(threading.get_ident())
        time.sleep(0.005)
        return image

    with open_classifier(engine_bundle, backend="tensorrt") as classifier:
        monkeypatch.setattr(classifier, "prepare", prepare)
        answers = list(classifier.classify_stream(batch(64)))
    assert len(answers) == 64
    assert len(workers) == 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"platform": "Linux-aarch64"}, "is for Linux-aarch64, this machine is"),
        ({"tensorrt_version": "10.3.0"}, "was built by tensorrt 10.3.0, this machine has 11.4.0"),
        (
            {"compute_capability": ("8.7", "9.0")},
            r"capability 8.7, 9.0, this GPU \(NVIDIA L4\) has 8.9",
        ),
        ({"gpu_name": "NVIDIA L40"}, "was built on NVIDIA L40, this GPU is NVIDIA L4"),
        ({"onnx_sha256": "0" * 64}, "was built from another model.fp16.onnx than the bundle"),
        ({"precision": "int8"}, "a int8 ONNX file that the bundle no longer lists"),
    ],
)
def test_each_mismatch_has_its_message_and_the_rebuild_command(
    trt11: FakeTrt, engine_bundle: Path, changes: dict[str, Any], words: str
) -> None:
    change_engine(engine_bundle, **changes)
    with pytest.raises(EngineMismatchError, match=words) as caught:
        open_classifier(engine_bundle, backend="tensorrt")
    precision = changes.get("precision", "fp16")
    command = f"`python export/build_trt.py {engine_bundle} --precision {precision}"
    assert command in str(caught.value)
    assert trt11.deserialised == []
    with open_classifier(engine_bundle) as classifier:  # by itself it takes what runs, and says so
        assert classifier.backend == "onnx-cpu"
        assert "tensorrt: engines/" in classifier.reason


@pytest.mark.parametrize("damage", ["truncated", "foreign", "tampered", "absent"])
def test_a_damaged_engine_never_reaches_the_deserialiser(
    trt11: FakeTrt, engine_bundle: Path, damage: str
) -> None:
    path = engine_bundle / "engines" / "model.fp16.tensorrt.sm89.engine"
    content = {"truncated": b"pla", "foreign": b"ftrt" * 100, "tampered": b"plbn"}.get(damage)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError, match=r"sm89\.engine is (not the file|listed)") as caught:
        open_classifier(engine_bundle, backend="tensorrt")
    assert "export/build_trt.py" in str(caught.value)
    assert trt11.deserialised == []


def test_bindings_that_are_newer_than_the_driver_are_passed_over(
    trt11: FakeTrt, engine_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.backends import preflight

    monkeypatch.setattr(preflight, "find_gpu", lambda: Gpu("NVIDIA L4", "8.9", 24 << 30, "12.4"))
    with pytest.raises(BackendError, match=r"13\.0\.3 is too new.*'cuda-bindings>=12\.6,<13'"):
        open_classifier(engine_bundle, backend="tensorrt")
    with open_classifier(engine_bundle) as classifier:
        assert classifier.backend == "onnx-cpu"
        assert "tensorrt: cuda-bindings 13.0.3 is too new" in classifier.reason


def test_a_missing_part_is_named(
    engine_bundle: Path, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.backends import preflight

    change_engine(engine_bundle, flavor="tensorrt-rtx")
    monkeypatch.setattr(preflight, "is_installed", lambda flavor: False)
    with pytest.raises(
        BackendError, match=r"tensorrt-rtx is not installed.*pip install tensorrt-rtx-cu13"
    ):
        open_classifier(engine_bundle, backend="tensorrt-rtx")
    monkeypatch.setattr(preflight, "is_installed", lambda flavor: True)
    monkeypatch.setattr(preflight, "bindings_are_installed", lambda: False)
    with pytest.raises(BackendError, match="cuda-bindings is not installed"):
        open_classifier(engine_bundle, backend="tensorrt-rtx")
    with open_classifier(engine_bundle) as classifier:
        assert "tensorrt-rtx: cuda-bindings is not installed" in classifier.reason
