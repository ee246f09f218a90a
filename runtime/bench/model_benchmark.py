"""Measures every backend and precision of a model, each in a process of its own."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from runtime.backends.choice import Option, choose, options
from runtime.backends.session import Threads
from runtime.base.errors import BackendError
from runtime.bench.measurement import BenchResult, measure_classifier
from runtime.bench.sample_images import write_sample_jpegs
from runtime.inference.classifier import Classifier
from runtime.inference.open_classifier import open_classifier
from runtime.model.bundle import open_bundle
from runtime.model.locate import find_model


@dataclass(frozen=True)
class BenchSettings:
    """How long each figure is measured, in seconds, and on how many files."""

    seconds: float
    images: int


def bench_model(
    model: Path,
    settings: BenchSettings,
    *,
    left_out: Callable[[BackendError], None],
    backend: str | None = None,
    precision: str | None = None,
    apart: bool = False,
) -> Iterator[BenchResult]:
    """Measures the options that were asked for, one after another.

    An option is one file of the model on one backend. Each has a process of its own, because
    otherwise its memory could not be told from that of the others, and because TensorRT and ONNX
    Runtime keep threads and memory that would disturb the next measurement. A single option is
    measured in the present process, unless it must be `apart`.

    Args:
        model: a bundle, a run or an ONNX file.
        settings: how long and on how many files to measure.
        left_out: called with the error of an option that does not start, if another one does.
        backend: measure only this one; None: all.
        precision: measure only this one; None: all.
        apart: measure a single option in a process of its own too, because the present process
            does other work.

    Yields:
        The figures of each option, as soon as it is measured.

    Raises:
        BundleError: there is no model, or it is damaged.
        BackendError: no option starts; or no file of the model was asked for.
    """
    path = find_model(model)
    wanted: list[tuple[str | None, str | None]] = [(backend, precision)]
    if path.suffix != ".onnx":
        bundle = open_bundle(path)
        found = [o for o in options(bundle) if o.is_worthwhile and _asked(o, backend, precision)]
        if not found:  # `choose` says why, or finds TensorRT's int8 graph for ONNX Runtime
            found = [choose(bundle, backend=backend, precision=precision).option]
        wanted = [(option.backend, option.precision) for option in found]
    measure = _measure_apart if apart or len(wanted) > 1 else _measure_here
    failed = []
    for one_backend, one_precision in wanted:
        try:
            result = measure(path, one_backend, one_precision, settings)
        except BackendError as error:  # what is installed may not start, as CUDA without cuDNN
            failed.append(error)
            if len(failed) == len(wanted):
                raise failed[0] from None
            left_out(error)
        else:
            yield result


def _asked(option: Option, backend: str | None, precision: str | None) -> bool:
    return backend in (None, option.backend) and precision in (None, option.precision)


def _measure_here(
    path: Path, backend: str | None, precision: str | None, settings: BenchSettings
) -> BenchResult:
    def opened(threads: Threads) -> Classifier:
        return open_classifier(path, backend=backend, precision=precision, threads=threads)

    with (
        tempfile.TemporaryDirectory(prefix="skd-edge-bench-") as folder,
        opened(Threads()) as latency,
    ):
        paths = write_sample_jpegs(Path(folder), count=settings.images)
        return measure_classifier(
            latency,
            lambda: opened(Threads(intra_op=1, spinning=False)),
            paths,
            seconds=settings.seconds,
        )


def _measure_apart(
    path: Path, backend: str | None, precision: str | None, settings: BenchSettings
) -> BenchResult:
    asked = {"--backend": backend, "--precision": precision}
    arguments = [word for name, value in asked.items() if value for word in (name, value)]
    limits = ["--seconds", str(settings.seconds), "--images", str(settings.images), "--json"]
    # The folder for its temporary files is ours, so that they are removed even if it is killed.
    with (
        tempfile.TemporaryDirectory(prefix="skd-edge-bench-") as folder,
        subprocess.Popen(
            [sys.executable, "-m", "runtime", "bench", str(path.resolve()), *arguments, *limits],
            env={**os.environ, "TMPDIR": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            answer, complaint = process.communicate()
        finally:
            process.kill()  # at Ctrl-C; this does nothing to a process that has ended
            process.wait()
    if process.returncode != 0:
        reason = complaint.strip().splitlines() or [f"exit code {process.returncode}"]
        named = " ".join(word for word in (backend, precision) if word) or path.name
        raise BackendError(f"{named} failed: {reason[-1]}")
    return msgspec.json.decode(answer.splitlines()[0], type=BenchResult)
