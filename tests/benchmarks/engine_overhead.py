"""What the runtime adds to a TensorRT engine's own time, on the GPU that it was built for.

    python tests/benchmarks/engine_overhead.py runs/latest/bundle --precision fp16

The engine's own time is measured with events around many launches of a CUDA graph that holds only
the network and reads buffers of the device. It is compared with `run` of the session (an array to
probabilities), with an array to its labels, and with the images a second of the largest batch from
host memory, on as many threads as the session has lanes. With --check it exits 3 if a target is
missed.
"""

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.backends.choice import choose
from runtime.backends.cuda_runtime import Cuda, host_view
from runtime.backends.engine_session import EngineSession
from runtime.backends.engine_slot import context_without_memory, scratch_bytes
from runtime.backends.gpu import find_gpu
from runtime.backends.tensorrt_library import last_errors, load_tensorrt, tensorrt_logger
from runtime.base.errors import BackendError
from runtime.bench.measurement import batch_sizes
from runtime.inference.classifier import DEFAULT_TOP_K, Classifier
from runtime.model.bundle import Bundle, open_bundle
from runtime.model.card import INPUT_NAME, OUTPUT_NAME, EngineRecord
from runtime.model.locate import find_model

MAX_OVERHEAD_US = 60.0  # what an array to its labels may take beyond the engine's own time
MIN_SHARE = 0.9  # of the engine's own images a second that host memory must reach
MAX_REGRESSION = 1.03
# Milliseconds of MobileNetV2, 224 px, on an H100 with TensorRT 8.6.0 (profile 1,8,64, float input).
KNOWN_MS = {("fp16", 1): 0.191, ("int8", 64): 0.791}
LAUNCHES_MS = 20.0  # how much work lies between two events
ROUNDS = 15
ARRAYS = 3  # of each thread, so that a batch is not in the fastest cache
MISSED = 3


@dataclass(frozen=True)
class Network:
    """The engine alone at one batch size, in milliseconds."""

    batch: int
    graph_ms: float  # one of many launches, measured with events
    enqueue_ms: float  # the same without a graph
    launch_ms: float  # a single launch until its end, by the host's clock

    @property
    def images_per_second(self) -> float:
        return 1e3 * self.batch / self.graph_ms


@dataclass(frozen=True)
class Lanes:
    """Batches from host memory through several lanes, each with its own thread."""

    lanes: int
    batch: int
    images_per_second: float


class CudaWithEvents(Cuda):
    """The calls of the runtime, and those of events, which the runtime does not need."""

    def new_event(self) -> Any:
        return self._call(self._api.cudaEventCreate)

    def destroy_event(self, event: Any) -> None:
        self._call(self._api.cudaEventDestroy, event)

    def record(self, event: Any, stream: int) -> None:
        self._call(self._api.cudaEventRecord, event, stream)

    def elapsed_ms(self, begin: Any, end: Any) -> float:
        return float(self._call(self._api.cudaEventElapsedTime, begin, end))


class EngineAlone:
    """One context as the runtime makes it, with buffers of the device, for one batch size."""

    def __init__(self, bundle: Bundle, record: EngineRecord, batch: int) -> None:
        """Reads the engine anew: in 8.6 only the first context of an engine has its profile."""
        self._cuda = CudaWithEvents()
        trt = load_tensorrt(record.flavor)
        self._logger = tensorrt_logger(record.flavor)
        runtime = trt.Runtime(self._logger)
        engine = runtime.deserialize_cuda_engine(bundle.read(record))
        self._require(engine is not None, "deserialize_cuda_engine")
        self._context = context_without_memory(trt, engine)
        self._require(self._context is not None, "create_execution_context")
        self._keep: tuple[Any, ...] = (runtime, engine)
        self._stream = self._cuda.new_stream()
        size, classes = bundle.card.input.size, bundle.card.num_classes
        images, rows, scratch = self._buffers = [
            self._cuda.device_alloc(batch * size * size * 3),
            self._cuda.device_alloc(batch * classes * 4),
            self._cuda.device_alloc(scratch_bytes(engine)),
        ]
        self._context.device_memory = scratch
        shape = (batch, size, size, 3)
        self._require(self._context.set_input_shape(INPUT_NAME, shape), "set_input_shape")
        for name, address in ((INPUT_NAME, images), (OUTPUT_NAME, rows)):
            self._require(self._context.set_tensor_address(name, address), "set_tensor_address")
        self.enqueue()
        self._cuda.synchronize(self._stream)
        self._graph = self._cuda.capture(self._stream, self.enqueue)
        self._events = [self._cuda.new_event() for _ in range(2)]

    def enqueue(self) -> None:
        self._require(self._context.execute_async_v3(self._stream), "execute_async_v3")

    def launch(self) -> None:
        self._cuda.launch(self._graph, self._stream)

    def measure(self, batch: int) -> Network:
        self._loop(self.launch, 50)  # so that the clocks of the GPU rise
        return Network(
            batch=batch,
            graph_ms=self._typical(self.launch),
            enqueue_ms=self._typical(self.enqueue),
            launch_ms=1e3 * typical_seconds(self._launch_and_wait),
        )

    def close(self) -> None:
        self._cuda.destroy_graph(self._graph)
        for event in self._events:
            self._cuda.destroy_event(event)
        del self._context
        self._keep = ()
        for address in self._buffers:
            self._cuda.device_free(address)
        self._cuda.destroy_stream(self._stream)

    def _typical(self, work: Callable[[], None]) -> float:
        count = max(5, round(LAUNCHES_MS / self._loop(work, 20)))
        return statistics.median(self._loop(work, count) for _ in range(ROUNDS))

    def _loop(self, work: Callable[[], None], count: int) -> float:
        """The milliseconds of each of `count` runs, measured with events."""
        begin, end = self._events
        self._cuda.record(begin, self._stream)
        for _ in range(count):
            work()
        self._cuda.record(end, self._stream)
        self._cuda.synchronize(self._stream)
        return self._cuda.elapsed_ms(begin, end) / count

    def _launch_and_wait(self) -> None:
        self.launch()
        self._cuda.synchronize(self._stream)

    def _require(self, passed: bool, call: str) -> None:
        if not passed:
            raise BackendError(f"{call} failed: {last_errors(self._logger)}")


def main() -> int:
    """Measures one engine and prints its figures."""
    options = _parse()
    bundle = open_bundle(find_model(options.model))
    record = choose(bundle, backend=options.backend, precision=options.precision).option.record
    if not isinstance(record, EngineRecord):
        raise TypeError(f"{record.path} is no engine")
    found = measure(bundle, record, options.lanes, options.seconds)
    missed = missed_targets(found)
    found["missed"] = missed
    print(json.dumps(found) if options.json else _text(found))
    return MISSED if missed and options.check else 0


def measure(
    bundle: Bundle, record: EngineRecord, lanes: list[int], seconds: float
) -> dict[str, Any]:
    """All figures of one engine, as they are printed."""
    with _open(bundle, record) as classifier:
        batches = batch_sizes(classifier)
        networks = [_network(bundle, record, batch) for batch in batches]
        session = classifier.session
        session.warm_up(*batches)
        images = _images(batches[-1], bundle.card.input.size)
        calls = {
            "prepared array to labels": lambda: _labels(classifier, images[:1]),
            "array to labels": lambda: classifier.classify(images[0]),
        }
        runs = {
            str(n): 1e3 * typical_seconds(lambda n=n: session.run(images[:n]))  # type: ignore[misc]
            for n in batches
        }
        labels = {name: 1e3 * typical_seconds(call) for name, call in calls.items()}
    through = [_through(bundle, record, count, seconds) for count in lanes]
    return {
        "gpu": find_gpu().name,
        "engine": record.path,
        "tensorrt": record.tensorrt_version,
        "precision": record.precision,
        "arch": bundle.card.arch,
        "size": bundle.card.input.size,
        "whole_array_used": bundle.card.input.resize == bundle.card.input.crop,
        "network": [
            {**vars(network), "images_per_second": network.images_per_second}
            for network in networks
        ],
        "run_ms": runs,
        "label_ms": labels,
        "staging_copy_ms": 1e3 * _staging_seconds(images),
        "lanes": [vars(each) for each in through],
    }


def missed_targets(found: dict[str, Any]) -> list[str]:
    """A sentence for each target that the figures miss."""
    missed = []
    single, largest = found["network"][0], found["network"][-1]
    overhead = 1e3 * (found["label_ms"]["prepared array to labels"] - single["graph_ms"])
    if overhead > MAX_OVERHEAD_US:
        missed.append(f"a label costs {overhead:.0f} us more than the engine")
    share = found["lanes"][0]["images_per_second"] / largest["images_per_second"]
    if share < MIN_SHARE:
        missed.append(f"{share:.1%} of the engine's images a second come from host memory")
    if (found["arch"], found["size"]) == ("mobilenetv2", 224) and "H100" in found["gpu"]:
        for network in found["network"]:
            known = KNOWN_MS.get((found["precision"], network["batch"]))
            if known is not None and network["graph_ms"] > MAX_REGRESSION * known:
                missed.append(
                    f"batch {network['batch']} takes {network['graph_ms']:.3f} ms, known: {known}"
                )
    return missed


def typical_seconds(call: Callable[[], object], seconds: float = 0.7) -> float:
    """The median time of the calls that fit into `seconds`; the first tenth is not counted."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < ROUNDS or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times[len(times) // 10 :])


def _session(bundle: Bundle, record: EngineRecord, lanes: int = 0) -> EngineSession:
    """The engine with `lanes` lanes; 0: as many as a user gets."""
    return EngineSession(
        bundle.read(record),
        source=record.path,
        flavor=record.flavor,
        profile=record.profile,
        **({"slots": lanes} if lanes else {}),
    )


def _open(bundle: Bundle, record: EngineRecord) -> Classifier:
    session = _session(bundle, record)
    return Classifier(session, bundle.card, source=record.path, precision=record.precision)


def _network(bundle: Bundle, record: EngineRecord, batch: int) -> Network:
    alone = EngineAlone(bundle, record, batch)
    try:
        return alone.measure(batch)
    finally:
        alone.close()


def _labels(classifier: Classifier, image: NDArray[np.uint8]) -> object:
    return classifier.rank(classifier.session.run(image)[0], DEFAULT_TOP_K)


def _images(count: int, size: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def _staging_seconds(images: NDArray[np.uint8]) -> float:
    """The seconds of copying a batch into pinned memory with one thread."""
    cuda = Cuda()
    address = cuda.host_alloc(images.nbytes)
    try:
        staged = host_view(address, images.shape, "uint8")
        return typical_seconds(lambda: np.copyto(staged, images), 0.2)
    finally:
        cuda.host_free(address)


def _through(bundle: Bundle, record: EngineRecord, lanes: int, seconds: float) -> Lanes:
    """Images a second of the largest batch with `lanes` lanes (0: the session's own number)."""
    batch = record.profile.max
    with _session(bundle, record, lanes) as session:
        session.warm_up(batch)
        count = session.lanes
        arrays = [
            [_images(batch, bundle.card.input.size, ARRAYS * i + j) for j in range(ARRAYS)]
            for i in range(count)
        ]
        done = [0] * count
        start = threading.Barrier(count + 1)
        stop = threading.Event()

        def client(number: int) -> None:
            start.wait()
            while not stop.is_set():
                session.run(arrays[number][done[number] % ARRAYS])
                done[number] += 1

        threads = [threading.Thread(target=client, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        start.wait()
        time.sleep(0.2 * seconds)
        before, began = sum(done), time.perf_counter()
        time.sleep(seconds)
        after, ended = sum(done), time.perf_counter()
        stop.set()
        for thread in threads:
            thread.join()
    return Lanes(count, batch, batch * (after - before) / (ended - began))


def _text(found: dict[str, Any]) -> str:
    lines = [
        f"{found['engine']}: {found['arch']} {found['size']} px, TensorRT {found['tensorrt']}, "
        f"{found['gpu']}",
        f"{'batch':>5} {'graph ms':>9} {'enqueue':>9} {'launch+wait':>11} {'run ms':>9} "
        f"{'images/s':>10}",
    ]
    for network in found["network"]:
        lines.append(
            f"{network['batch']:5d} {network['graph_ms']:9.4f} {network['enqueue_ms']:9.4f} "
            f"{network['launch_ms']:11.4f} {found['run_ms'][str(network['batch'])]:9.4f} "
            f"{network['images_per_second']:10.0f}"
        )
    alone = found["network"][0]["graph_ms"]
    for name, milliseconds in found["label_ms"].items():
        lines.append(
            f"{name}: {1e3 * milliseconds:.1f} us, {1e3 * (milliseconds - alone):+.1f} us over "
            f"the engine ({milliseconds / alone:.2f} times)"
        )
    lines.append(f"a batch into pinned memory: {found['staging_copy_ms']:.3f} ms")
    most = found["network"][-1]["images_per_second"]
    for each in found["lanes"]:
        lines.append(
            f"{each['lanes']} lanes, batch {each['batch']}: {each['images_per_second']:.0f} "
            f"images/s, {each['images_per_second'] / most:.1%} of the engine's {most:.0f}"
        )
    lines.append("missed: " + ("; ".join(found["missed"]) or "nothing"))
    return "\n".join(lines)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, help="a bundle or a run")
    parser.add_argument("--backend", choices=("tensorrt", "tensorrt-rtx"), default="tensorrt")
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp16")
    parser.add_argument(
        "--lanes",
        type=lambda text: [int(word) for word in text.split(",")],
        default=[0],
        metavar="LIST",
        help="numbers of lanes to try; 0, the default, is the session's own",
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="of each throughput figure")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true", help="exit 3 if a target is missed")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
