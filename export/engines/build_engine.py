"""Builds one engine, with the calls that TensorRT 8.6, 10, 11 and TensorRT-RTX have in common.

Polygraphy, NVIDIA's library for the same calls, is not used: it does not check which precision was
built, and it would be one more package on a device that needs none but TensorRT.
"""

import logging
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from export.engines.flavors import EngineFlavor, Target
from runtime.backends.tensorrt_library import LoadedEngine, last_errors
from runtime.base.errors import BackendError, VerificationError
from runtime.base.files import write_atomic
from runtime.model.card import INPUT_NAME, Precision, Profile


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What to build, and for which GPU.

    Attributes:
        model: the content of an ONNX file.
        source: its name, for messages.
        precision: the precision that the engine must have.
        profile: the batches that the engine takes.
        input_size: edge of the square input in pixels.
        target: compute capabilities of the GPUs, such as "8.6".
        workspace_bytes: what the builder may use for a layer; None: its own limit.
        optimization_level: 0 to 5; None: the builder's default.
        timing_cache: file of the kernels' timings, read and then written; None: none is kept.
    """

    model: bytes
    source: str
    precision: Precision
    profile: Profile
    input_size: int
    target: Target
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None


@dataclass(frozen=True)
class BuiltEngine:
    """A serialized engine.

    Attributes:
        plan: the content of the engine's file.
        seconds: how long the build took.
        loaded: the engine as the check of its precision deserialised it, for whoever runs it next;
            None if the check did not need it.
    """

    plan: bytes
    seconds: float
    loaded: LoadedEngine | None = None


def build_engine(flavor: EngineFlavor, request: BuildRequest) -> BuiltEngine:
    """Parses the ONNX file, builds the engine and reads its precision back.

    Raises:
        BackendError: TensorRT refused the graph or the configuration; its own words are repeated.
        VerificationError: the engine does not have the precision that was asked for.
    """
    start = time.perf_counter()
    with _quiet_log():
        plan, loaded = _build(flavor, request)
    return BuiltEngine(plan, time.perf_counter() - start, loaded)


def _build(flavor: EngineFlavor, request: BuildRequest) -> tuple[bytes, LoadedEngine | None]:
    last_errors(flavor.log)  # forgets the errors of an earlier build
    builder = _new_builder(flavor)
    network = _require(builder.create_network(flavor.network_flags()), "create a network", flavor)
    with _ended_by_ctrl_c():
        # The parser is kept until the engine is built: it owns the memory of the weights.
        parser = _parse(flavor, network, request)
        config = _require(builder.create_builder_config(), "create a configuration", flavor)
        _configure(flavor, builder, config, request)
        plan = builder.build_serialized_network(network, config)
    content = bytes(_require(plan, "build an engine", flavor))
    del parser
    built = flavor.read_back(network, content)
    if built.precision != request.precision:
        raise VerificationError(
            f"{request.source}: asked for {request.precision}, {flavor.name} {flavor.version} "
            f"built {built.precision}; this GPU or version has no such kernels, and the engine is "
            "not kept"
        )
    if request.timing_cache is not None and flavor.keeps_timing_cache:
        write_atomic(request.timing_cache, bytes(config.get_timing_cache().serialize()))
    return content, built.loaded


def _new_builder(flavor: EngineFlavor) -> Any:
    try:
        return flavor.trt.Builder(flavor.log)
    except TypeError:  # raised by pybind11 if TensorRT returned no object
        _fail("create a builder", flavor)


def _parse(flavor: EngineFlavor, network: Any, request: BuildRequest) -> Any:
    """Fills `network` and returns the parser."""
    parser = flavor.trt.OnnxParser(network, flavor.log)
    if parser.parse(request.model):
        return parser
    problems = [_parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
    raise BackendError(
        f"{flavor.name} {flavor.version} cannot read {request.source}: "
        f"{'; '.join(problems) or last_errors(flavor.log)}"
    )


def _parser_error(error: Any) -> str:
    """What was refused, with the node's name if this version of TensorRT knows it."""
    if hasattr(error, "node_name"):
        return f"node {error.node_name()} ({error.node_operator()}): {error.desc()}"
    return f"node number {error.node()}: {error.desc()}"


def _configure(flavor: EngineFlavor, builder: Any, config: Any, request: BuildRequest) -> None:
    trt = flavor.trt
    profile, size = builder.create_optimization_profile(), request.input_size
    batches = (request.profile.min, request.profile.opt, request.profile.max)
    profile.set_shape(INPUT_NAME, *((batch, size, size, 3) for batch in batches))
    if config.add_optimization_profile(profile) < 0:
        raise BackendError(f"{flavor.name} {flavor.version} refused the batch profile {batches}")
    if request.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_bytes)
    if request.optimization_level is not None:
        config.builder_optimization_level = request.optimization_level
    # The engine keeps the names and types of its layers, to read them back and for profiling.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    flavor.configure(config, precision=request.precision, target=request.target)
    if request.timing_cache is not None and flavor.keeps_timing_cache:
        _load_timing_cache(flavor, config, request.timing_cache)
    if hasattr(trt, "IProgressMonitor") and sys.stderr.isatty():
        title = f"building {request.source} for {', '.join(request.target)}"
        config.progress_monitor = _progress_monitor(trt, title)


def _load_timing_cache(flavor: EngineFlavor, config: Any, path: Path) -> None:
    """Starts with the timings of earlier builds, or without any if another GPU measured them."""
    for content in (path.read_bytes() if path.exists() else b"", b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return
    _fail("take a new timing cache", flavor)


def _require(value: Any, what: str, flavor: EngineFlavor) -> Any:
    """Returns what TensorRT gave; BackendError if that is None, by which it reports a failure."""
    return value if value is not None else _fail(what, flavor)


def _fail(what: str, flavor: EngineFlavor) -> NoReturn:
    raise BackendError(
        f"{flavor.name} {flavor.version} could not {what}: {last_errors(flavor.log)}"
    )


# --- what a build does to the terminal: no messages, one line of progress, and Ctrl-C ends it ---


@contextmanager
def _quiet_log() -> Iterator[None]:
    """Keeps TensorRT's messages out of the output: an int8 build warns hundreds of times.

    No error is lost: the logger keeps a list of them, and the exceptions repeat it.
    """
    log = logging.getLogger("runtime.backends.tensorrt_library")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """Lets the system end the process at once on Ctrl-C. No half-built file is on the disk then.

    Python would raise KeyboardInterrupt at its next line. During a build that line lies in a
    callback of TensorRT, which reports the exception as a message and goes on building.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    former = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


def _progress_monitor(trt: Any, title: str) -> Any:
    """An IProgressMonitor of the module `trt` that keeps one line on a terminal up to date."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase: str, _parent: str | None, steps: int) -> None:
            self._steps[phase] = steps
            self._show(f"{title}: {phase}")

        def step_complete(self, phase: str, step: int) -> bool:
            self._show(f"{title}: {phase} {step + 1}/{self._steps.get(phase, step + 1)}")
            return True  # go on

        def phase_finish(self, phase: str) -> None:
            self._steps.pop(phase, None)
            if not self._steps:
                self._show("")

        def _show(self, text: str) -> None:
            # \r goes to the start of the line, \x1b[K clears it, since the next text may be
            # shorter. A text as wide as the terminal would continue in the next line, and \r would
            # then not come back to its start.
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r\x1b[K{text[:width]}")
            sys.stderr.flush()

    return Monitor()
