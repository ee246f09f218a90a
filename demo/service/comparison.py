"""Two models on the same picture, and on the held-out test images of the bundle."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo.service.models import Model, check_unchanged
from demo.service.picture import Picture
from runtime.evaluation.compare_models import Compared
from runtime.evaluation.compare_on_images import answer_holdout

ROUNDS = 9
_LABELS_SHOWN = 5
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
        compared: the figures, with the first model as the old one and the second as the new one.
        max_difference: the largest difference of any probability.
        disagreements: the first few images with different answers.
        notes: sentences without a stop that a reader of the figures must know.
    """

    compared: Compared
    max_difference: float
    disagreements: tuple[Disagreement, ...]
    notes: tuple[str, ...] = ()


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
    """Runs both models over the held-out test images of the first one's bundle, or the second's.

    Args:
        first: a model.
        second: the other model.
        progress: called with the number of answered images and of all images.

    Raises:
        UserError: the models differ in classes or input, no bundle has such images, or one holds
            another model now.
        BundleError: the file of the images is damaged.
    """
    for model in (first, second):
        check_unchanged(model.entry)
    notes: list[str] = []
    both = answer_holdout(first.classifier, second.classifier, note=notes.append, progress=progress)
    names, test = both.class_names, both.test
    one, two = both.old.argmax(axis=1), both.new.argmax(axis=1)
    return HoldoutComparison(
        compared=both.compared(),
        max_difference=float(np.abs(both.old - both.new).max()),
        disagreements=tuple(
            Disagreement(test.images[i], names[test.labels[i]], names[one[i]], names[two[i]])
            for i in np.flatnonzero(one != two)[:_DIFFERENCES_SHOWN]
        ),
        notes=tuple(notes),
    )
