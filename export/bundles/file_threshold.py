"""The threshold of one exported file or engine, found by running it, and what is said about it."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import UserError
from runtime.evaluation.threshold import error_bound, fit_threshold, thresholds_to_try
from runtime.model.card import EngineRecord, ModelFile, Threshold
from runtime.model.holdout import KeptApart

Answers = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class Fitted(TypedDict):
    """The two fields of a record: one of them is None."""

    threshold: Threshold | None
    no_threshold: str | None


def fitted(kept: KeptApart, answers: Answers, *, max_error: float) -> Fitted:
    """The threshold of a file that `answers` runs.

    Args:
        kept: the images that it is found with.
        answers: the probabilities, float32 (N, K), of uint8 images (N, S, S, 3).
        max_error: the share of wrong answers that is allowed among the accepted ones.
    """
    tried = thresholds_to_try(kept.choosing_confidence, kept.choosing_right, max_error)
    found = fit_threshold(answers(kept.images), kept.labels, tried, max_error=max_error)
    if isinstance(found, str):
        return Fitted(threshold=None, no_threshold=found)
    return Fitted(threshold=found, no_threshold=None)


def check_max_error(kept: KeptApart | None, why_none: str | None, max_error: float) -> None:
    """Checks that a share of errors that was asked for could be promised at all.

    Raises:
        UserError: there are no images to find a threshold with, or so few that they could not prove
            it even if all answers were right.
    """
    if kept is None:
        raise UserError(f"max_error {max_error:g} cannot be promised: {why_none}")
    least = error_bound(0, len(kept.labels))
    if max_error < least:
        raise UserError(
            f"max_error {max_error:g} cannot be promised with the {len(kept.labels)} images that "
            f"are kept apart for it; they allow {least:.4f} or more"
        )


def threshold_lines(records: Iterable[ModelFile | EngineRecord]) -> Iterator[str]:
    """What each file accepts, a line each; one line for all files that have none for one reason."""
    without: dict[str, list[str]] = {}
    for record in records:
        if record.threshold is not None:
            yield f"{record.path}: {record.threshold.words}"
        elif record.no_threshold is not None:
            without.setdefault(record.no_threshold, []).append(record.path)
    for reason, paths in without.items():
        yield f"no threshold for {', '.join(paths)}: {reason}"
