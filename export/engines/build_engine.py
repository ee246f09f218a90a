"""Builds one engine, with calls that TensorRT 8.6, 10, 11 and TensorRT-RTX have in common."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from export.engines.console import ended_by_ctrl_c, progress_monitor, quiet_log
from export.engines.flavors import EngineFlavor
from runtime.backends.tensorrt_library import last_errors
from runtime.base.errors import BackendError, VerificationError
from runtime.base.files import write_atomic
from runtime.model.card import INPUT_NAME, Precision, Profile


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What to build, and for which GPU."""

    model: bytes  # the content of an ONNX file
    source: str  # its name, for messages
    precision: Precision
    profile: Profile
    input_size: int
    capability: str
    workspace_bytes: int | None = None  # None: the builder's own limit
    optimization_level: int | None = None  # 0-5; None: the builder's default
    timing_cache: Path | None = None


@dataclass(frozen=True)
class BuiltEngine:
    """A serialized engine, and how long it took."""

    plan: bytes
    seconds: float


def build_engine(flavor: EngineFlavor, request: BuildRequest) -> BuiltEngine:
    """Parses, builds and reads back.

    Raises:
        BackendError: TensorRT refused the graph or the configuration; its own words are repeated.
        VerificationError: the engine does not have the precision that was asked for.
    """
    start = time.perf_counter()
    with quiet_log():
        plan = _build(flavor, request)
    return BuiltEngine(plan, time.perf_counter() - start)


def _build(flavor: EngineFlavor, request: BuildRequest) -> bytes:
    last_errors(flavor.log)  # those of an earlier build are not this one's
    builder = _new_builder(flavor)
    network = _require(builder.create_network(flavor.network_flags()), "create a network", flavor)
    with ended_by_ctrl_c():
        # Kept until the engine is built: the network's weights lie in the parser's memory.
        parser = _parse(flavor, network, request)
        config = _require(builder.create_builder_config(), "create a configuration", flavor)
        _configure(flavor, builder, config, request)
        plan = builder.build_serialized_network(network, config)
    content = bytes(_require(plan, "build an engine", flavor))
    del parser
    built = flavor.built_precision(network, content)
    if built != request.precision:
        raise VerificationError(
            f"{request.source}: asked for {request.precision}, {flavor.name} {flavor.version} "
            f"built {built}; this GPU or version has no such kernels, and the engine is not kept"
        )
    if request.timing_cache is not None and flavor.keeps_timing_cache:
        write_atomic(request.timing_cache, bytes(config.get_timing_cache().serialize()))
    return content


def _new_builder(flavor: EngineFlavor) -> Any:
    try:
        return flavor.trt.Builder(flavor.log)
    except TypeError:  # so says pybind11 where TensorRT gave no object
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
    """What was refused, with the node's name where the version knows it."""
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
    # Layer names and types stay in the engine, for reading back and for profiling.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    flavor.configure(config, precision=request.precision, capability=request.capability)
    if request.timing_cache is not None and flavor.keeps_timing_cache:
        _load_timing_cache(flavor, config, request.timing_cache)
    if hasattr(trt, "IProgressMonitor") and sys.stderr.isatty():
        title = f"building {request.source} for {request.capability}"
        config.progress_monitor = progress_monitor(trt, title)


def _load_timing_cache(flavor: EngineFlavor, config: Any, path: Path) -> None:
    """Begins with the timings of earlier builds; anew if they are of another version or GPU."""
    for content in (path.read_bytes() if path.exists() else b"", b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return
    _fail("take a new timing cache", flavor)


def _require(value: Any, what: str, flavor: EngineFlavor) -> Any:
    """Returns what TensorRT gave, which is None where it failed."""
    return value if value is not None else _fail(what, flavor)


def _fail(what: str, flavor: EngineFlavor) -> NoReturn:
    raise BackendError(
        f"{flavor.name} {flavor.version} could not {what}: {last_errors(flavor.log)}"
    )
