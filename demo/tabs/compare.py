"""Two models on the same picture, and on the bundle's held-out test images."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo.service.models import Model
from demo.service.picture import Picture
from runtime.base.errors import UserError
from runtime.model.card import HOLDOUT_FILE
from runtime.model.holdout import Labelled, read_holdout

ROUNDS = 9
TOP = 5
BATCH = 32
MAX_SHOWN = 12


@dataclass(frozen=True)
class Side:
    """One model's answer to the picture; `latency_ms` is the median of ROUNDS interleaved runs."""

    model: Model
    probabilities: dict[str, float]
    latency_ms: float

    @property
    def label(self) -> str:
        return max(self.probabilities, key=self.probabilities.__getitem__)


@dataclass(frozen=True)
class Comparison:
    """Both answers to one picture.

    Attributes:
        labels: the classes worth showing: the first TOP by the larger of both probabilities.
        max_difference: of any class that both know.
    """

    first: Side
    second: Side
    labels: tuple[str, ...]
    max_difference: float


@dataclass(frozen=True)
class Difference:
    """A test image that the two models answer differently."""

    image: NDArray[np.uint8]
    truth: str
    first: str
    second: str


@dataclass(frozen=True)
class HoldoutComparison:
    """Both models on the held-out test images; accuracies and agreement are fractions."""

    num_images: int
    agreement: float
    first_top1: float
    second_top1: float
    max_difference: float
    differences: tuple[Difference, ...]


def compare(first: Model, second: Model, picture: Picture) -> Comparison:
    """Runs both models on their own view of the picture, turn by turn."""
    models = (first, second)
    batches = [picture.views[model.card.input][None] for model in models]
    times: tuple[list[float], list[float]] = ([], [])
    answers: list[NDArray[np.float32]] = []
    for _ in range(ROUNDS):
        answers = []
        for model, batch, spent in zip(models, batches, times, strict=True):
            started = time.perf_counter()
            answers.append(model.classifier.session.run(batch)[0])
            spent.append(1e3 * (time.perf_counter() - started))
    sides = [
        Side(
            model,
            dict(zip(model.card.class_names, answer.tolist(), strict=True)),
            statistics.median(spent),
        )
        for model, answer, spent in zip(models, answers, times, strict=True)
    ]
    return _comparison(sides[0], sides[1])


def _comparison(first: Side, second: Side) -> Comparison:
    one, two = first.probabilities, second.probabilities
    largest = {label: max(one.get(label, 0.0), two.get(label, 0.0)) for label in {**one, **two}}
    ranked = sorted(largest, key=largest.__getitem__, reverse=True)
    shared = one.keys() & two.keys()
    return Comparison(
        first=first,
        second=second,
        labels=tuple(ranked[:TOP]),
        max_difference=max((abs(one[label] - two[label]) for label in shared), default=1.0),
    )


def compare_on_holdout(
    first: Model, second: Model, *, progress: Callable[[int, int], None]
) -> HoldoutComparison:
    """Runs both over the held-out images of the first one's bundle."""
    bundle = first.choice.path
    same = (
        first.card.class_names == second.card.class_names and first.card.input == second.card.input
    )
    if not same or not (bundle / HOLDOUT_FILE).is_file():
        raise UserError("these two models have no test images in common to be compared on")
    test = read_holdout(bundle)
    count = len(test.images)
    answers: tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]] = ([], [])
    for start in range(0, count, BATCH):
        for model, found in zip((first, second), answers, strict=True):
            found.append(model.run(test.images[start : start + BATCH]))
        progress(min(start + BATCH, count), count)
    one, two = (np.concatenate(found) for found in answers)
    return _summary(first.card.class_names, test, one, two)


def _summary(
    names: tuple[str, ...],
    test: Labelled,
    one: NDArray[np.float32],
    two: NDArray[np.float32],
) -> HoldoutComparison:
    first, second = one.argmax(axis=1), two.argmax(axis=1)
    differ = np.flatnonzero(first != second)
    return HoldoutComparison(
        num_images=len(test.labels),
        agreement=1 - len(differ) / len(test.labels),
        first_top1=float((first == test.labels).mean()),
        second_top1=float((second == test.labels).mean()),
        max_difference=float(np.abs(one - two).max()),
        differences=tuple(
            Difference(test.images[i], names[test.labels[i]], names[first[i]], names[second[i]])
            for i in differ[:MAX_SHOWN]
        ),
    )
