"""Two open models on the same labelled images: those of a bundle, or a folder of one's own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import UserError
from runtime.evaluation.compare_models import Compared, compare_answers, shared_classes
from runtime.evaluation.evaluate_folder import answer_folder
from runtime.evaluation.labelled_folder import read_labelled_folder
from runtime.inference.classifier import Classifier
from runtime.model.card import HOLDOUT_FILE
from runtime.model.holdout import Labelled, read_holdout

_BATCH = 32
# The page shows these words, too.
_ON_A_FOLDER = (
    "`python -m runtime compare OLD NEW DATA` compares them on a folder of labelled images"
)


@dataclass(frozen=True)
class BothAnswers:
    """What two models answer to the same labelled images, in the order of the old one's classes.

    Attributes:
        test: the images with their labels.
        class_names: of the old model.
        old: its probabilities, float32 (N, K).
        new: the new model's probabilities, float32 (N, K).
    """

    test: Labelled
    class_names: tuple[str, ...]
    old: NDArray[np.float32]
    new: NDArray[np.float32]

    def compared(self) -> Compared:
        """The figures of both, judged by the first answer to each image."""
        labels = self.test.labels
        old, new = self.old.argmax(axis=1), self.new.argmax(axis=1)
        return compare_answers(old, new, labels, self.class_names, range(len(labels)))


def answer_holdout(
    old: Classifier,
    new: Classifier,
    *,
    note: Callable[[str], None],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> BothAnswers:
    """Runs both models on the held-out test images of the old one's bundle, or of the new one's.

    Args:
        old: the model that is in use.
        new: the model that may replace it.
        note: called with a line of which the user should know.
        progress: called with the number of answered images and of all images.

    Raises:
        UserError: the models differ in classes or input, or neither bundle has such images.
        BundleError: the file of the images is damaged.
    """
    positions = shared_classes(old.card.class_names, new.card.class_names)
    if _geometry(old) != _geometry(new):
        raise UserError(
            f"the models see different images (input {old.card.input.size} px and "
            f"{new.card.input.size} px, or another crop or fit), so test images that are prepared "
            f"for one do not suit the other; {_ON_A_FOLDER}"
        )
    holdout = _holdout(old, new, positions, note)
    found: tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]] = ([], [])
    count = len(holdout.images)
    for start in range(0, count, _BATCH):
        batch = holdout.images[start : start + _BATCH]
        for model, parts in zip((old, new), found, strict=True):
            parts.append(model.probabilities(batch))
        progress(min(start + _BATCH, count), count)
    old_found, new_found = (np.concatenate(parts) for parts in found)
    ordered = np.empty_like(new_found)
    ordered[:, positions] = new_found
    return BothAnswers(holdout, old.card.class_names, old_found, ordered)


def compare_on_folder(
    old: Classifier, new: Classifier, root: Path, *, note: Callable[[str], None]
) -> Compared:
    """Compares both models on a folder of class folders, each with its own preprocessing.

    Args:
        old: the model that is in use.
        new: the model that may replace it.
        root: the folder.
        note: called with lines about what was read and left out.

    Raises:
        UserError: the models know different classes, or the folder is not laid out as expected.
    """
    positions = shared_classes(old.card.class_names, new.card.class_names)
    names = old.card.class_names
    data = read_labelled_folder(root, names, note)
    found: list[NDArray[np.int64]] = []
    answered_paths: list[list[str]] = []
    for model, say in ((old, note), (new, lambda line: None)):  # a broken image is told once
        answered, whole = answer_folder(
            data, names, model.prepare, model.probabilities, chunk=model.chunk, broken=say
        )
        found.append(answered.probabilities.argmax(axis=1))
        answered_paths.append(whole.paths)
    if changed := sorted({*answered_paths[0]} ^ {*answered_paths[1]}):
        raise UserError(
            f"{root / changed[0]} could be read for one model and not for the other; expected the "
            "same images for both: compare again when nothing in the folder changes"
        )
    return compare_answers(found[0], positions[found[1]], whole.labels, names, whole.paths)


def _geometry(model: Classifier) -> tuple[object, ...]:
    """What decides the pixels that a model sees. Mean and deviation are inside of its graph."""
    spec = model.card.input
    fill = spec.fill if spec.fit == "letterbox" else None
    return spec.size, spec.resize, spec.crop, spec.interpolation, spec.fit, fill


def _held_with(model: Classifier) -> Labelled | None:
    """The held-out test images beside a model; None if there are none."""
    beside = Path(model.source).parent
    for folder in (beside, beside.parent):  # an engine lies in a folder of its own
        if (folder / HOLDOUT_FILE).is_file():
            return read_holdout(folder, model.card)
    return None


def _holdout(
    old: Classifier, new: Classifier, positions: NDArray[np.int64], note: Callable[[str], None]
) -> Labelled:
    """The old bundle's test images, with labels in the order of the old model's classes."""
    first, second = (_held_with(model) for model in (old, new))
    if first is None and second is None:
        raise UserError(
            f"neither {old.source} nor {new.source} has held-out test images beside it; "
            f"{_ON_A_FOLDER}"
        )
    if first is not None and second is not None and not _same(first, second):
        note(
            "the two bundles hold different test images; those of the first one are used. If the "
            "second model was trained on them, it looks better than it is"
        )
    if first is not None:
        return first
    assert second is not None
    return Labelled(second.images, positions[second.labels], second.probabilities)


def _same(first: Labelled, second: Labelled) -> bool:
    return np.array_equal(first.images, second.images)
