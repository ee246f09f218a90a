"""Which epoch's student is deployed, and when training ends: judged by validation images alone."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from runtime.model.figures import log_softmax, top_k
from training.config.recipe import Recipe

Weights = dict[str, Tensor]


class Scores(NamedTuple):
    """What the deployed student of an epoch reaches on the validation images."""

    top1: float
    cross_entropy: float  # mean, in nats, of probabilities that are not calibrated

    def beats(self, other: "Scores") -> bool:
        """Whether the accuracy is higher, or as high with a lower cross-entropy.

        Accuracy comes first because it is what users ask a classifier for. Few validation images
        give few different accuracies, so ties are frequent, and the cross-entropy decides them.
        """
        return (self.top1, -self.cross_entropy) > (other.top1, -other.cross_entropy)


def scores_of(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Scores:
    """The scores of logits (V, K) against int64 labels (V,)."""
    log_probabilities = log_softmax(logits)[np.arange(len(labels)), labels]
    return Scores(top_k(logits, labels, 1), float(-log_probabilities.mean()))


class Selection:
    """Keeps the best student of a run so far, as the recipe's `select` and `patience` ask.

    No test image and no test label is ever seen here. All processes of a run judge the same scores,
    so they decide alike; only the main one, which evaluates, keeps weights.
    """

    def __init__(self, recipe: Recipe, *, images: int = 0) -> None:
        """Judges by `images` validation images; 0: by all that are held out."""
        self.images = images
        self._patience = recipe.patience
        self.by_validation = recipe.select == "best"
        self.measures = self.by_validation or self._patience > 0
        self.best_epoch = 0  # counted from 1; 0: no epoch is over
        self._best: Scores | None = None
        self.student: Weights | None = None  # of the best epoch, on the CPU

    def judge(self, epoch: int, scores: Scores) -> bool:
        """Takes over the scores of `epoch`, counted from 1; returns whether it is the best."""
        gained = self._best is None or scores.beats(self._best)
        if gained:
            self.best_epoch, self._best, self.student = epoch, scores, None
        return gained

    def ends(self, epoch: int) -> bool:
        """Whether training ends after `epoch`: `patience` epochs have brought no gain."""
        return 0 < self._patience <= epoch - self.best_epoch

    def end_words(self, epoch: int) -> str:
        """Says why training ended after `epoch`."""
        return (
            f"stopped after epoch {epoch}: the validation images show no gain since epoch "
            f"{self.best_epoch} (patience {self._patience})"
        )

    def deployed_epoch(self, last: int) -> int:
        """The epoch whose student is deployed after a training of `last` epochs."""
        return self.best_epoch if self.by_validation else last

    def state_dict(self, *, deployed: int | None) -> dict[str, Any] | None:
        """What a checkpoint keeps, as plain types and CPU tensors; None before the first epoch.

        Args:
            deployed: the epoch after which the checkpoint's own student is deployed; None: amid an
                epoch. If it is the best one its weights are not kept twice: a checkpoint grows only
                while another student is the best.
        """
        if self._best is None:
            return None
        student = None if deployed == self.best_epoch else self.student
        scores = self._best._asdict()
        return {"epoch": self.best_epoch, **scores, "images": self.images, "student": student}

    def load_state_dict(self, state: dict[str, Any] | None, *, student: Weights) -> None:
        """Takes over what `state_dict` gave, with the best `student` of that checkpoint."""
        if state is None:
            return
        self.best_epoch = state["epoch"]
        self.images = state.get("images", 0)
        self._best = Scores(state["top1"], state["cross_entropy"])
        self.student = student if self.by_validation else None
