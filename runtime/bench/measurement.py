"""How fast a model is on this machine: each stage alone, end to end, and a whole folder."""

import resource
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from runtime.base.parallel import in_chunks
from runtime.inference.classifier import Classifier
from runtime.model.card import Parity
from runtime.model.preprocess import decode_image, fit_image

MAX_BATCH = 32  # the largest batch that is measured, if the backend has no limit of its own
_MIDDLE_BATCH = 8
_FOLDER_TURNS = 3
_WARM_UP = 3
_MIN_ROUNDS = 10
_PERCENTILES = (50, 90, 99)
_MEGABYTE = 1_000_000  # decimal, as for the sizes of files


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """The milliseconds within which 50, 90 and 99 of 100 calls ended."""

    p50_ms: float
    p90_ms: float
    p99_ms: float


class BatchResult(Percentiles, frozen=True, kw_only=True):
    """The network alone, on batches of `batch` images."""

    batch: int
    images_per_second: float


class FolderResult(msgspec.Struct, frozen=True, kw_only=True):
    """A folder of files, decoded and classified by all cores.

    Attributes:
        images: how many files there were.
        images_per_second: how many were answered in a second.
        bound: how many could be answered in a second if only decoding and the network took time,
            each on all cores.
    """

    images: int
    images_per_second: float
    bound: float

    @property
    def share(self) -> float:
        """The fraction of `bound` that was reached."""
        return self.images_per_second / self.bound


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one option: a file of the model on one backend.

    Attributes:
        backend: what ran the file.
        precision: of the file; None: a lone ONNX file that names none.
        file: its name.
        decode: from a JPEG file of 640x480 pixels to RGB.
        preprocess: from RGB to the network's input.
        network: the network alone, for several sizes of batches.
        end_to_end: from a file to its labels.
        overhead: the fraction by which `end_to_end` exceeds the sum of its stages.
        folder: many files on all cores.
        memory_mb: the most resident memory of a process that answers one image after another.
        top1: the fraction of right answers, from the card, of this file or engine; None: unknown.
        top1_drop: by how much that is below the trained student, on the same images.
    """

    backend: str
    precision: str | None
    file: str
    decode: Percentiles
    preprocess: Percentiles
    network: list[BatchResult]
    end_to_end: Percentiles
    overhead: float
    folder: FolderResult
    memory_mb: float
    top1: float | None
    top1_drop: float | None = None


def measure_classifier(
    latency: Classifier,
    open_throughput: Callable[[], Classifier],
    paths: list[Path],
    *,
    seconds: float,
) -> BenchResult:
    """Measures one option.

    Args:
        latency: the model, with all cores for one image.
        open_throughput: opens the same model with one thread a run, for the folder.
        paths: the files to classify.
        seconds: how long each figure is measured.
    """
    stages = _stages(latency, paths, seconds)
    memory = _resident_megabytes()  # before the batches, whose memory one image does not need
    network = [_network(latency, batch, seconds) for batch in batch_sizes(latency)]
    with open_throughput() as throughput:
        folder = _folder(throughput, paths)
    decode, preprocess, run, whole = (stages[:, i] for i in range(4))
    return BenchResult(
        backend=latency.backend,
        precision=latency.precision,
        file=Path(latency.source).name,
        decode=_percentiles(decode),
        preprocess=_percentiles(preprocess),
        network=network,
        end_to_end=_percentiles(whole),
        overhead=float(np.median(whole / (decode + preprocess + run)) - 1),
        folder=folder,
        memory_mb=memory,
        top1=latency.parity.top1 if latency.parity else None,
        top1_drop=_drop(latency.parity),
    )


def _drop(parity: Parity | None) -> float | None:
    return None if parity is None else parity.reference_top1 - parity.top1


def batch_sizes(classifier: Classifier) -> list[int]:
    """The sizes that are measured: 1, 8 and the largest that the backend takes."""
    largest = classifier.session.max_batch or MAX_BATCH
    return sorted({1, min(_MIDDLE_BATCH, largest), largest})


def _stages(classifier: Classifier, paths: list[Path], seconds: float) -> NDArray[np.float64]:
    """Seconds (rounds, 4): decode, preprocess, network, and the whole, measured in turn."""
    spec, session = classifier.card.input, classifier.session
    rounds: list[tuple[float, ...]] = []
    turn = 0

    def once() -> None:
        nonlocal turn
        path = paths[turn % len(paths)]
        turn += 1
        marks = [time.perf_counter()]
        image = decode_image(path, spec)
        marks.append(time.perf_counter())
        prepared = fit_image(image, spec)
        marks.append(time.perf_counter())
        session.run(prepared[None])
        marks.append(time.perf_counter())
        classifier.classify(path)
        marks.append(time.perf_counter())
        rounds.append(tuple(np.diff(marks)))

    _repeat(once, seconds)
    return np.array(rounds[_WARM_UP:])


def _network(classifier: Classifier, batch: int, seconds: float) -> BatchResult:
    size = classifier.session.input_size
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    times = _repeat(lambda: classifier.session.run(images), seconds)[_WARM_UP:]
    found = _percentiles(times)
    return BatchResult(
        batch=batch,
        images_per_second=1e3 * batch / found.p50_ms,
        p50_ms=found.p50_ms,
        p90_ms=found.p90_ms,
        p99_ms=found.p99_ms,
    )


def _folder(classifier: Classifier, paths: list[Path]) -> FolderResult:
    spec, session = classifier.card.input, classifier.session
    chunk = classifier.chunk
    batch = np.zeros((chunk, session.input_size, session.input_size, 3), np.uint8)

    def decode(part: list[Path]) -> list[object]:
        return [fit_image(decode_image(path, spec), spec) for path in part]

    def run(part: list[Path]) -> list[object]:
        return list(session.run(batch[: len(part)]))

    session.warm_up(1, chunk)
    works: list[Callable[[], Iterable[object]]] = [
        lambda: in_chunks(decode, paths, chunk=chunk),
        lambda: in_chunks(run, paths, chunk=chunk),
        lambda: classifier.classify_stream(paths),
    ]
    # They take turns, so that other work on the machine disturbs all three alike, and the best
    # turn of each counts.
    turns = [[_seconds_of(work()) for work in works] for _ in range(_FOLDER_TURNS)]
    decoding, running, whole = (min(seconds) for seconds in zip(*turns, strict=True))
    return FolderResult(
        images=len(paths),
        images_per_second=len(paths) / whole,
        bound=len(paths) / (decoding + running),
    )


def _repeat(call: Callable[[], object], seconds: float) -> list[float]:
    """Calls again and again, for at least `seconds`, and returns the seconds of each call."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < _WARM_UP + _MIN_ROUNDS or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return times


def _seconds_of(results: Iterable[object]) -> float:
    started = time.perf_counter()
    for _ in results:
        pass
    return time.perf_counter() - started


def _percentiles(seconds: list[float] | NDArray[np.float64]) -> Percentiles:
    p50, p90, p99 = (1e3 * float(value) for value in np.percentile(seconds, _PERCENTILES))
    return Percentiles(p50_ms=p50, p90_ms=p90, p99_ms=p99)


def _resident_megabytes() -> float:
    """The most memory that this process has held.

    Linux counts the memory of the parent process into `ru_maxrss` of its child. So a model that the
    page has measured would seem to take as much as the page. `VmHWM` starts anew with the program.
    """
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / _MEGABYTE
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / _MEGABYTE if sys.platform == "darwin" else peak * 1024 / _MEGABYTE
