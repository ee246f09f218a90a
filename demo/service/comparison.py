"""Two models on the same picture, and on the held-out test images of the bundle."""

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
_LABELS_SHOWN = 5
_BATCH = 32
_DIFFERENCES_SHOWN = 12


@dataclass(frozen=True)
class ModelAnswer:
    """One model's answer to a picture.

    Attributes:
        model: what answered.
        probabilities: of all its classes, by label.
        latency_ms: the median of ROUNDS runs, taken in turn with the other model's.
    """

    model: Model
    probabilities: dict[str, float]
    latency_ms: float

    @property
    def label(self) -> str:
        """The most probable label."""
        return max(self.probabilities, key=self.probabilities.__getitem__)


@dataclass(frozen=True)
class Comparison:
    """Both answers to one picture.

    Attributes:
        first: the answer of the first model.
        second: the answer of the second model.
        labels: the labels to show, those that either model finds most probable.
        max_difference: the largest difference of probability of any class that both know.
    """

    first: ModelAnswer
    second: ModelAnswer
    labels: tuple[str, ...]
    max_difference: float


@dataclass(frozen=True)
class Disagreement:
    """A test image, uint8 (size, size, 3), to which the two models give different answers."""

    image: NDArray[np.uint8]
    truth: str
    first: str
    second: str


@dataclass(frozen=True)
class HoldoutComparison:
    """Both models on the held-out test images.

    Attributes:
        num_images: how many images were asked.
        agreement: the fraction of images with the same answer.
        first_top1: the fraction that the first model answers correctly.
        second_top1: the fraction that the second model answers correctly.
        max_difference: the largest difference of any probability.
        disagreements: the first few images with different answers.
    """

    num_images: int
    agreement: float
    first_top1: float
    second_top1: float
    max_difference: float
    disagreements: tuple[Disagreement, ...]


def compare_on_picture(first: Model, second: Model, picture: Picture) -> Comparison:
    """Runs both models on their own view of the picture, in turn."""
    models = (first, second)
    batches = [model.view_of(picture)[None] for model in models]
    times: tuple[list[float], list[float]] = ([], [])
    answers: list[NDArray[np.float32]] = []
    for _ in range(ROUNDS):
        answers = []
        for model, batch, spent in zip(models, batches, times, strict=True):
            started = time.perf_counter()
            answers.append(model.classifier.probabilities(batch)[0])
            spent.append(1e3 * (time.perf_counter() - started))
    one, two = (
        ModelAnswer(
            model,
            dict(zip(model.card.class_names, answer.tolist(), strict=True)),
            statistics.median(spent),
        )
        for model, answer, spent in zip(models, answers, times, strict=True)
    )
    return _comparison(one, two)


def _comparison(first: ModelAnswer, second: ModelAnswer) -> Comparison:
    one, two = first.probabilities, second.probabilities
    largest = {label: max(one.get(label, 0.0), two.get(label, 0.0)) for label in {**one, **two}}
    ranked = sorted(largest, key=largest.__getitem__, reverse=True)
    shared = one.keys() & two.keys()
    return Comparison(
        first=first,
        second=second,
        labels=tuple(ranked[:_LABELS_SHOWN]),
        max_difference=max((abs(one[label] - two[label]) for label in shared), default=1.0),
    )


def compare_on_holdout(
    first: Model, second: Model, *, progress: Callable[[int, int], None]
) -> HoldoutComparison:
    """Runs both models over the held-out images of the first one's bundle.

    Args:
        first: the model whose bundle has the images.
        second: the other model.
        progress: called with the number of answered images and of all images.

    Raises:
        UserError: the models differ in classes or input, or the bundle has no such images.
        BundleError: the file of the images is damaged.
    """
    bundle = first.entry.path
    same = (
        first.card.class_names == second.card.class_names and first.card.input == second.card.input
    )
    if not same or not (bundle / HOLDOUT_FILE).is_file():
        raise UserError("these two models have no test images in common to be compared on")
    test = read_holdout(bundle)
    count = len(test.images)
    answers: tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]] = ([], [])
    for start in range(0, count, _BATCH):
        for model, found in zip((first, second), answers, strict=True):
            found.append(model.classifier.probabilities(test.images[start : start + _BATCH]))
        progress(min(start + _BATCH, count), count)
    one, two = (np.concatenate(found) for found in answers)
    return _summary(first.card.class_names, test, one, two)


def _summary(
    names: tuple[str, ...],
    test: Labelled,
    one: NDArray[np.float32],
    two: NDArray[np.float32],
) -> HoldoutComparison:
    """The figures from both models' probabilities (N, classes)."""
    first, second = one.argmax(axis=1), two.argmax(axis=1)
    differ = np.flatnonzero(first != second)
    return HoldoutComparison(
        num_images=len(test.labels),
        agreement=1 - len(differ) / len(test.labels),
        first_top1=float((first == test.labels).mean()),
        second_top1=float((second == test.labels).mean()),
        max_difference=float(np.abs(one - two).max()),
        disagreements=tuple(
            Disagreement(test.images[i], names[test.labels[i]], names[first[i]], names[second[i]])
            for i in differ[:_DIFFERENCES_SHOWN]
        ),
    )
