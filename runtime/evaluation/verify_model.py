"""Every file and engine of a bundle that runs here, against the bundle's held-out test images."""

from collections.abc import Callable, Iterator
from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from runtime.backends.choice import Option, check_precision, open_session, options
from runtime.backends.session import Session
from runtime.base.errors import BackendError, BundleError
from runtime.evaluation.gate import at_export, compare, complaint
from runtime.evaluation.threshold import accepted_figures
from runtime.model.bundle import Bundle
from runtime.model.card import ClassChange
from runtime.model.holdout import Labelled, read_holdout

_BATCH = 32


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """How one file does on one backend of this machine.

    Attributes:
        path: of the file, in the bundle.
        precision: of the file.
        backend: what ran it.
        images: how many were asked. It is 0 if the file is missing, damaged or fails while it runs,
            and then the figures are null.
        top1: the share that is answered rightly.
        reference_top1: the share that the trained student answers rightly in torch.
        agreement: the share with the student's answer.
        max_difference: the largest difference of any probability from the student's.
        worst_class: the class whose recall falls most.
        accepted_share: the share of the answers that the file's threshold accepts; null if it has
            none.
        accepted_error: the share of wrong answers among those; null if there are none.
        passed: whether the file is whole, runs and is within its precision's tolerance, which
            counts from what it did at export where that is worse than the student.
        complaint: in words what is wrong; null if nothing is.
    """

    path: str
    precision: str
    backend: str
    images: int = 0
    top1: float | None = None
    reference_top1: float | None = None
    agreement: float | None = None
    max_difference: float | None = None
    worst_class: ClassChange | None = None
    accepted_share: float | None = None
    accepted_error: float | None = None
    passed: bool
    complaint: str | None = None


def verify_bundle(
    bundle: Bundle,
    *,
    not_run: Callable[[str], None],
    backend: str | None = None,
    precision: str | None = None,
) -> Iterator[Verified]:
    """Runs each file of the bundle on each backend of this machine that takes it.

    The test images, their labels and torch's answers to them are in the bundle, so neither torch
    nor the data set is needed.

    Args:
        bundle: as it was exported, or a copy of it, on any machine.
        not_run: called with a line for each file that a backend has and cannot open here.
        backend: only this one; None: all.
        precision: only this one; None: all.

    Yields:
        The result of each file and backend, as soon as it is known.

    Raises:
        UserError: there is no backend or precision of that name.
        BundleError: the bundle has no test images, or they are damaged or of another model.
        BackendError: no file runs here.
    """
    check_precision(precision)
    holdout = read_holdout(bundle.path, bundle.card)
    anything = False
    for option in options(bundle, backend):
        if precision not in (None, option.precision):
            continue
        named = f"{option.record.path} on {option.backend}"
        if option.problem is not None:
            not_run(f"{named}: {option.problem}")
            continue
        try:
            result = _verify(bundle, option, holdout)
        except BackendError as error:  # what is installed may not start, as CUDA without cuDNN
            not_run(f"{named}: {error}")
            continue
        anything = True
        yield result
    if not anything:
        asked = " ".join(word for word in (backend, precision) if word)
        raise BackendError(
            f"no file {f'of {asked} ' if asked else ''}in {bundle.path} runs here; "
            "`python -m runtime doctor` says what is missing"
        )


def _verify(bundle: Bundle, option: Option, holdout: Labelled) -> Verified:
    record, names = option.record, bundle.card.class_names
    failed = partial(
        Verified,
        path=record.path,
        precision=option.precision,
        backend=option.backend,
        passed=False,
    )
    try:
        session = open_session(bundle, option)
    except BundleError as error:  # it is missing, or not the file that the card lists
        return failed(complaint=str(error))
    with session:
        try:
            found = answers(session, holdout.images)
        except BackendError as error:  # the backend runs here, and not with this file
            return failed(complaint=str(error))
    parity = compare(found, holdout.probabilities, holdout.labels, names)
    accepted: tuple[float | None, float | None] = (None, None)
    if record.threshold is not None:
        accepted = accepted_figures(found, holdout.labels, record.threshold)
    wrong = complaint(parity, record.precision, exported=at_export(bundle.card, record))
    return Verified(
        path=record.path,
        precision=option.precision,
        backend=option.backend,
        images=parity.images,
        top1=parity.top1,
        reference_top1=parity.reference_top1,
        agreement=parity.agreement,
        max_difference=parity.max_difference,
        worst_class=parity.worst_class,
        accepted_share=accepted[0],
        accepted_error=accepted[1],
        passed=wrong is None,
        complaint=wrong,
    )


def answers(session: Session, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities float32 (N, K) of prepared images, uint8 (N, size, size, 3)."""
    size = min(_BATCH, session.max_batch or _BATCH)
    parts = (images[start : start + size] for start in range(0, len(images), size))
    return np.concatenate([session.run(part) for part in parts])
