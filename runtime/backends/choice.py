"""Which backend and precision run a bundle on this machine, and why the others do not.

A backend that is asked for is used or refused, never replaced by another. Without one, the first of
`options` that runs is used, and the reason is stated.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runtime.backends.backend import Backend, Problem
from runtime.backends.registry import backend_named, wanted_backends
from runtime.backends.session import Session, Threads
from runtime.base.errors import BackendError, EngineMismatchError, UserError
from runtime.model.bundle import Bundle
from runtime.model.card import PRECISIONS, EngineRecord, ModelFile


@dataclass(frozen=True)
class Option:
    """One file of a bundle on one backend.

    Attributes:
        backend: the backend's name.
        precision: of the file.
        record: the file's entry in the card.
        problem: why it cannot run here; None if it can.
    """

    backend: str
    precision: str
    record: ModelFile | EngineRecord
    problem: Problem | EngineMismatchError | None = None

    @property
    def is_worthwhile(self) -> bool:
        """Whether it runs here, and not in a precision that is slow on this backend."""
        return self.problem is None and (
            self.precision not in backend_named(self.backend).slow_precisions
        )


@dataclass(frozen=True)
class Choice:
    """The option that is used, and the reason in a few words."""

    option: Option
    reason: str


def options(bundle: Bundle, backend: str | None = None) -> Iterator[Option]:
    """Every file that the bundle has for the backends, or for the one named; the best first.

    They are yielded one by one, because to know what a backend lacks takes time: `onnx-cuda` has to
    be started.

    Raises:
        UserError: there is no backend of that name.
    """
    for candidate in wanted_backends(backend):
        yield from _options_of(bundle, candidate)


def _options_of(bundle: Bundle, backend: Backend) -> Iterator[Option]:
    files = backend.files(bundle.card)
    if not files:
        return  # nobody needs to know what this backend lacks
    problem = backend.problem()
    for record in files:
        found = problem or backend.mismatch(bundle, record)
        yield Option(backend.name, record.precision, record, found)


def choose(bundle: Bundle, *, backend: str | None = None, precision: str | None = None) -> Choice:
    """Picks the first option that runs, of those that are asked for.

    Args:
        bundle: the model.
        backend: a backend's name; None: any.
        precision: fp32, fp16, int8 or int8-cpu; None: any.

    Raises:
        UserError: there is no such backend or precision.
        EngineMismatchError: all options are engines for another machine.
        BackendError: no option runs; the message has the reasons.
    """
    check_precision(precision)
    considered = []
    for option in options(bundle, backend):
        if precision not in (None, option.precision):
            continue
        considered.append(option)
        if option.problem is None:
            return Choice(option, _reason(considered, backend, precision))
    if considered and all(isinstance(o.problem, EngineMismatchError) for o in considered):
        raise EngineMismatchError("; ".join(str(option.problem) for option in considered))
    raise BackendError(_refusal(bundle, backend, precision, considered))


def check_precision(precision: str | None) -> None:
    """Refuses a word that is no precision of files; None stands for all of them.

    Raises:
        UserError: there is no such precision.
    """
    if precision is not None and precision not in PRECISIONS:
        raise UserError(f"unknown precision {precision!r}; choose one of {', '.join(PRECISIONS)}")


def open_session(bundle: Bundle, option: Option, *, threads: Threads | None = None) -> Session:
    """Opens the option's file, after its digest has been checked.

    Raises:
        BundleError: the file is missing, or not the one that the card lists.
        BackendError: the backend does not run here.
    """
    content = bundle.read(option.record)
    source = str(bundle.path / option.record.path)
    backend = backend_named(option.backend)
    return backend.open(content, source=source, record=option.record, threads=threads)


def _reason(considered: Sequence[Option], backend: str | None, precision: str | None) -> str:
    """Why the last one of the considered options is used."""
    used = considered[-1]
    before = [  # what its backend would have run in another precision
        f"{option.precision}: {_short(option.problem)}"
        for option in considered
        if option.problem and option.backend == used.backend and option.precision != used.precision
    ]
    if backend is not None:
        return "; ".join(["asked for", *before])
    skipped = {option.backend: option.problem for option in considered if option.problem}
    why = [f"{name}: {_short(skipped[name])}" for name in skipped if name != used.backend]
    why += before
    if not any(isinstance(option.record, EngineRecord) for option in considered):
        # There may be engines of other precisions.
        why.append(f"no {f'{precision} ' if precision else ''}engine in the bundle")
    return "; ".join(["the best that runs here", *why])


def _short(problem: Problem | EngineMismatchError | None) -> str:
    """The reason alone: what would mend it does not concern those whose model runs."""
    return problem.reason if isinstance(problem, Problem) else str(problem)


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
