"""Which backend and precision run a bundle on this machine, and why the others do not.

An asked-for backend is used or refused, never replaced by another. Without one, the first of
`options` that runs is used and says so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from runtime.backends.onnx_provider import OnnxBackend, provider_problem
from runtime.backends.onnx_session import OnnxSession, Threads
from runtime.backends.session import BACKENDS, Backend, Session
from runtime.base.errors import BackendError, EngineMismatchError, UserError
from runtime.model.bundle import Bundle
from runtime.model.card import FLAVORS, PRECISIONS, EngineRecord, Flavor, ModelFile

# The precisions of ONNX files that a provider may run, from the one chosen by itself onwards.
# int8-cpu comes after fp32: it costs up to a point of accuracy, so it is used when asked for.
ONNX_PRECISIONS: dict[OnnxBackend, tuple[str, ...]] = {
    "onnx-cuda": ("fp16", "fp32", "int8"),
    "onnx-cpu": ("fp32", "int8-cpu", "fp16", "int8"),
}


# int8 engines gain nothing at batch 1, and cost accuracy: used when asked for.
ENGINE_PRECISIONS = ("fp16", "fp32", "int8")


@dataclass(frozen=True)
class Option:
    """One file of a bundle on one backend; `problem` says why it cannot run here."""

    backend: Backend
    precision: str
    record: ModelFile | EngineRecord
    problem: BackendError | EngineMismatchError | None = None

    @property
    def is_worthwhile(self) -> bool:
        """Whether it runs here, and is no int8 graph of TensorRT on ONNX Runtime: that is slow."""
        for_tensorrt = self.precision == "int8" and self.backend.startswith("onnx")
        return self.problem is None and not for_tensorrt


@dataclass(frozen=True)
class Choice:
    """The option that is used, and the reason in a few words."""

    option: Option
    reason: str


def options(bundle: Bundle, backend: str | None = None) -> Iterator[Option]:
    """Every backend, or the one named, and precision that the bundle has files for, best first.

    One by one, because to know what a backend lacks takes time: `onnx-cuda` has to be started.
    """
    for flavor in FLAVORS:
        if backend in (None, flavor):
            yield from _engine_options(bundle, flavor)
    for onnx_backend in ONNX_PRECISIONS:
        if backend in (None, onnx_backend):
            yield from _onnx_options(bundle, onnx_backend)


def _onnx_options(bundle: Bundle, backend: OnnxBackend) -> Iterator[Option]:
    reason = provider_problem(backend)
    problem = BackendError(reason) if reason else None
    for precision in ONNX_PRECISIONS[backend]:
        if record := bundle.card.file(precision):
            yield Option(backend, precision, record, problem)


def _engine_options(bundle: Bundle, flavor: Flavor) -> list[Option]:
    engines = [engine for engine in bundle.card.engines if engine.flavor == flavor]
    if not engines:
        return []
    from runtime.backends.preflight import (  # ctypes, for those with engines only
        check_engine,
        this_machine,
    )

    engines.sort(key=lambda engine: ENGINE_PRECISIONS.index(engine.precision))
    try:
        machine = this_machine(flavor)
    except BackendError as missing:
        return [Option(flavor, engine.precision, engine, missing) for engine in engines]
    found = []
    for engine in engines:
        problem = None
        try:
            check_engine(bundle, engine, machine)
        except EngineMismatchError as difference:
            problem = difference
        found.append(Option(flavor, engine.precision, engine, problem))
    return found


def choose(bundle: Bundle, *, backend: str | None = None, precision: str | None = None) -> Choice:
    """Picks the first option that was asked for.

    Raises EngineMismatchError if all such engines are for another machine, else BackendError with
    the reasons, if none runs.
    """
    if backend is not None and backend not in BACKENDS:
        raise unknown_backend(backend)
    if precision is not None and precision not in PRECISIONS:
        raise UserError(f"unknown precision {precision!r}; choose one of {', '.join(PRECISIONS)}")
    considered = []
    for option in options(bundle, backend):
        if precision not in (None, option.precision):
            continue
        considered.append(option)
        if option.problem is None:
            return Choice(option, _reason(considered, option, backend, precision))
    if considered and all(isinstance(o.problem, EngineMismatchError) for o in considered):
        raise EngineMismatchError("; ".join(str(option.problem) for option in considered))
    raise BackendError(_refusal(bundle, backend, precision, considered))


def unknown_backend(backend: str) -> UserError:
    """The error for a word that is no backend."""
    return UserError(f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}")


def open_session(bundle: Bundle, option: Option, *, threads: Threads | None = None) -> Session:
    """Opens the option's file, after its digest has been checked."""
    content = bundle.read(option.record)
    source = str(bundle.path / option.record.path)
    if isinstance(option.record, EngineRecord):
        from runtime.backends.engine_session import EngineSession

        record = option.record
        return EngineSession(content, source=source, flavor=record.flavor, profile=record.profile)
    backend = cast(OnnxBackend, option.backend)
    return OnnxSession(content, source=source, backend=backend, threads=threads)


def _reason(
    considered: Sequence[Option], used: Option, backend: str | None, precision: str | None
) -> str:
    if backend is not None:
        return "asked for"
    skipped = {option.backend: option.problem for option in considered if option.problem}
    why = [f"{name}: {problem}" for name, problem in skipped.items() if name != used.backend]
    if not any(option.backend.startswith("tensorrt") for option in considered):
        # There may be engines of other precisions.
        why.append(f"no {f'{precision} ' if precision else ''}engine in the bundle")
    return "; ".join(["the best that runs here", *why])


def _refusal(
    bundle: Bundle, backend: str | None, precision: str | None, considered: Sequence[Option]
) -> str:
    wanted = " ".join(word for word in (backend, precision) if word) or "any backend"
    if considered:
        problems = dict.fromkeys(
            str(option.problem) if backend else f"{option.backend}: {option.problem}"
            for option in considered
        )
        return f"{wanted} cannot run here: {'; '.join(problems)}; see `python -m runtime doctor`"
    listed = ", ".join(file.precision for file in bundle.card.files) or "-"
    built = ", ".join(f"{engine.flavor} {engine.precision}" for engine in bundle.card.engines)
    return (
        f"{wanted} has no file in {bundle.path}: it holds ONNX files of {listed} and "
        f"{f'engines of {built}' if built else 'no engine'}; add one with `python export/run.py "
        "--precision ...` or `python export/build_trt.py`"
    )
