"""`open_classifier`: from what a user calls a model to a classifier that runs."""

import logging
from contextlib import ExitStack
from pathlib import Path

from runtime.backends.choice import ONNX_PRECISIONS, choose, open_session, unknown_backend
from runtime.backends.onnx_provider import provider_problem
from runtime.backends.onnx_session import OnnxSession, Threads
from runtime.backends.session import BACKENDS
from runtime.base.errors import BackendError, BundleError
from runtime.inference.classifier import Classifier
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
        threads: ONNX Runtime's use of the CPU.
        limits: of the images that will be decoded.

    Raises:
        BundleError: no model there, or one that is damaged or was replaced.
        EngineMismatchError: an engine for another machine.
        BackendError: the backend cannot run here, or the bundle has no file for it.
    """
    path = find_model(Path(model) if model is not None else None)
    if path.suffix == ".onnx":
        classifier = _open_file(path, backend, precision, threads or Threads(), limits)
    else:
        bundle = open_bundle(path)
        choice = choose(bundle, backend=backend, precision=precision)
        with ExitStack() as refused:  # an engine's memory is freed by `close` alone
            session = refused.enter_context(open_session(bundle, choice.option, threads=threads))
            classifier = Classifier(
                session,
                bundle.card,
                source=str(path / choice.option.record.path),
                precision=choice.option.precision,
                reason=choice.reason,
                parity=choice.option.record.parity,
                limits=limits,
            )
            refused.pop_all()
    _log.info("%s", classifier.describe())
    return classifier


def _open_file(
    path: Path, backend: str | None, precision: str | None, threads: Threads, limits: Limits
) -> Classifier:
    """Opens a lone ONNX file by the card in its metadata."""
    with ExitStack() as refused:
        session, reason = _onnx_session(path, backend, threads)
        refused.enter_context(session)
        card = embedded_card(session, path)
        own = session.metadata.get(PRECISION_KEY)
        if precision not in (None, own):
            raise BackendError(
                f"{path} holds {own or 'an unknown precision'}, not {precision}; "
                "name the bundle, or the file of that precision"
            )
        classifier = Classifier(
            session, card, source=str(path), precision=own, reason=reason, limits=limits
        )
        refused.pop_all()
        return classifier


def embedded_card(session: OnnxSession, path: Path) -> Card:
    """The card in the metadata of an open ONNX file; BundleError if it carries none."""
    text = session.metadata.get(METADATA_KEY)
    if text is None:
        raise BundleError(
            f"{path} carries no model card; expected a file made by `python export/run.py`"
        )
    return card_from_json(text, source=f"the metadata of {path}")


def read_embedded_card(path: Path) -> Card:
    """The card of a lone ONNX file; BundleError if it is no ONNX file or carries no card."""
    with OnnxSession(_read(path), source=str(path), backend="onnx-cpu") as session:
        return embedded_card(session, path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error


def _onnx_session(path: Path, backend: str | None, threads: Threads) -> tuple[OnnxSession, str]:
    if backend is not None and backend not in BACKENDS:
        raise unknown_backend(backend)
    skipped: list[str] = []
    for name in ONNX_PRECISIONS:
        if backend not in (None, name):
            continue
        problem = None if backend else provider_problem(name)  # opening will say it
        if problem is None:
            reason = "asked for" if backend else "; ".join(["the best that runs here", *skipped])
            session = OnnxSession(_read(path), source=str(path), backend=name, threads=threads)
            return session, reason
        skipped.append(f"{name}: {problem}")
    raise BackendError(
        f"{backend} runs engines, and {path} is a lone ONNX file; name a bundle with an engine "
        "(`python export/build_trt.py` builds it)"
    )
