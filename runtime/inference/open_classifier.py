"""`open_classifier`: from what a user calls a model to a classifier that runs."""

import logging
from contextlib import ExitStack
from pathlib import Path

from runtime.backends.backend import Backend
from runtime.backends.choice import choose, open_session
from runtime.backends.onnx_session import OnnxSession
from runtime.backends.registry import wanted_backends
from runtime.backends.session import Session, Threads
from runtime.base.errors import BackendError, BundleError
from runtime.inference.classifier import Classifier
from runtime.model.acceptance import LONE_FILE
from runtime.model.bundle import open_bundle
from runtime.model.card import METADATA_KEY, PRECISION_KEY, Card
from runtime.model.card_json import card_from_json
from runtime.model.locate import find_model
from runtime.model.preprocess import DEFAULT_LIMITS, Limits

_log = logging.getLogger(__name__)


def open_classifier(
    model: str | Path | None = None,
    *,
    backend: str | None = None,
    precision: str | None = None,
    threads: Threads | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Classifier:
    """Opens a model for classification.

    Args:
        model: a bundle, a run that has one, or an ONNX file that carries its card; None:
            `runs/latest`.
        backend: onnx-cpu, onnx-cuda, tensorrt or tensorrt-rtx: used or refused. None: the best
            that this machine can run; `Classifier.reason` and the log say why.
        precision: fp32, fp16, int8 or int8-cpu: used or refused. None: the backend's first.
        threads: how ONNX Runtime uses the CPU.
        limits: of the images that will be decoded.

    Raises:
        UserError: there is no such backend or precision.
        BundleError: there is no model, or it is damaged or was replaced.
        EngineMismatchError: the engine is for another machine.
        BackendError: the backend cannot run here, or the bundle has no file for it.
    """
    path = find_model(Path(model) if model is not None else None)
    if path.suffix == ".onnx":
        classifier = _open_file(path, backend, precision, threads, limits)
    else:
        classifier = _open_bundle(path, backend, precision, threads, limits)
    _log.info("%s", classifier.describe())
    return classifier


def _open_bundle(
    path: Path,
    backend: str | None,
    precision: str | None,
    threads: Threads | None,
    limits: Limits,
) -> Classifier:
    bundle = open_bundle(path)
    choice = choose(bundle, backend=backend, precision=precision)
    with ExitStack() as on_failure:  # only `close` frees the memory of an engine
        session = on_failure.enter_context(open_session(bundle, choice.option, threads=threads))
        classifier = Classifier(
            session,
            bundle.card,
            source=str(path / choice.option.record.path),
            precision=choice.option.precision,
            reason=choice.reason,
            parity=choice.option.record.parity,
            threshold=choice.option.record.threshold,
            no_threshold=choice.option.record.no_threshold,
            limits=limits,
        )
        on_failure.pop_all()
        return classifier


def _open_file(
    path: Path,
    backend: str | None,
    precision: str | None,
    threads: Threads | None,
    limits: Limits,
) -> Classifier:
    """Opens an ONNX file without a bundle, by the card in its metadata."""
    with ExitStack() as on_failure:
        candidate, reason = _backend_for_file(path, backend)
        opened = candidate.open(_read(path), source=str(path), record=None, threads=threads)
        session = on_failure.enter_context(opened)
        card = _embedded_card(session, path)
        own = session.metadata.get(PRECISION_KEY)
        if precision not in (None, own):
            raise BackendError(
                f"{path} holds {own or 'an unknown precision'}, not {precision}; "
                "name the bundle, or the file of that precision"
            )
        classifier = Classifier(
            session,
            card,
            source=str(path),
            precision=own,
            reason=reason,
            no_threshold=LONE_FILE,
            limits=limits,
        )
        on_failure.pop_all()
        return classifier


def _backend_for_file(path: Path, name: str | None) -> tuple[Backend, str]:
    """What opens an ONNX file without a bundle, and why."""
    skipped: list[str] = []
    for backend in wanted_backends(name):
        if not backend.opens_onnx:
            continue
        if name is not None:
            return backend, "asked for"  # whether it runs, its session will say
        problem = backend.problem()
        if problem is None:
            return backend, "; ".join(["the best that runs here", *skipped])
        skipped.append(f"{backend.name}: {problem.reason}")
    if name is None:
        raise BackendError(
            f"{path} cannot run here: {'; '.join(skipped)}; see `python -m runtime doctor`"
        )
    raise BackendError(
        f"{name} runs engines, and {path} is a lone ONNX file; name a bundle with an engine "
        "(`python export/build_trt.py` builds it)"
    )


def read_embedded_card(path: Path) -> Card:
    """The card in the metadata of an ONNX file.

    Raises:
        BundleError: it is no ONNX file, or it carries no card.
    """
    with OnnxSession(_read(path), source=str(path), backend="onnx-cpu") as session:
        return _embedded_card(session, path)


def _embedded_card(session: Session, path: Path) -> Card:
    text = session.metadata.get(METADATA_KEY)
    if text is None:
        raise BundleError(
            f"{path} carries no model card; expected a file made by `python export/run.py`"
        )
    return card_from_json(text, source=f"the metadata of {path}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
