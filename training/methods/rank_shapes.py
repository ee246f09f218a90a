"""What DSR compares: shapes of a picture's ranked logits, the recipe's `dsr_shape`; and controls.

Written r for the logits of one picture in ascending order, q for the teacher's shape, T for the
recipe's `temperature` and τ for its `dsr_tau`:

paper: T² KL( q ‖ σ(r / T) ), as in the authors' code of arXiv 2305.09183.

below-first: the same without the largest logit, which is left to cross-entropy. Ours.

standardised: τ² KL( q ‖ σ(u / τ) ) with u = (r - mean r) / (sd r + 1e-3). Logit standardisation
(Sun et al., CVPR 2024, arXiv 2403.01427) applied to ranks, so the shape has no scale.

standardised-below-first: the same without the largest logit. Ours.

shuffled-ranks: as paper, with the ranks of q in a fixed random order. A control: is it the order?

norm-variance: Var( ‖z - mean z‖ ) / K over the batch, without a teacher. A control: the shape?

To the second order, "paper" is the sum over ranks of Var(r_i) / K between pictures of a batch.
"norm-variance" is the part of this sum that lies along the logits' norm, with the same factor.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from runtime.base.errors import UserError

_EPSILON = 1e-3  # added to the deviation
_LEAST_VARIANCE = 1e-12  # a square root has no finite slope at 0
_SHUFFLE_SEED = 0
# A GPU rounds the mean of ones over 176 x 176 pixels, and over some other sizes, to a little less
# than one. A single pixel of the largest image, 1024 px, is four times as much as this.
_ROUNDING = 2.5e-7
NORM_VARIANCE = "norm-variance"


@dataclass(frozen=True)
class RankShape:
    """A shape that a teacher can have.

    Attributes:
        scores: float32 logits (N, K) to what is compared (N, K or K - 1), before the softmax.
        standardised: whether `dsr_tau` takes the place of the temperature. The teacher's averages
            are then those of probabilities instead of those of scores.
        shuffled: whether the teacher's ranks are in another order than the student's.
        fewest_classes: of fewer classes, all pictures have the same shape.
    """

    scores: Callable[[Tensor], Tensor]
    fewest_classes: int = 2
    standardised: bool = False
    shuffled: bool = False

    def ranks(self, classes: int) -> int:
        """How many numbers the shape of K logits has."""
        return self.scores(torch.zeros(1, classes)).shape[1]

    def remembered(self, scores: Tensor, *, tau: float) -> Tensor:
        """What a teacher remembers of scores (N, R): scores, or probabilities; detached."""
        scores = scores.detach()
        return F.softmax(scores / tau, dim=1) if self.standardised else scores

    def divergences(
        self, remembered: Tensor, scores: Tensor, *, temperature: float, tau: float
    ) -> Tensor:
        """The loss of each picture, float32 (N,).

        Args:
            remembered: (N, R) or (1, R), as `remembered` gives it.
            scores: (N, R), of the student.
            temperature: T.
            tau: τ.
        """
        heat = tau if self.standardised else temperature
        own = F.log_softmax(scores / heat, dim=1)
        teacher = remembered.detach()
        if not self.standardised:
            teacher = F.softmax(teacher / heat, dim=1)
        divergence = F.kl_div(own, teacher.expand_as(own), reduction="none").sum(dim=1)
        return divergence * heat**2


def sorted_upwards(logits: Tensor) -> Tensor:
    """Logits (N, K) in ascending order in each row, float32."""
    return torch.sort(logits.float(), dim=1)[0]


def _without_largest(logits: Tensor) -> Tensor:
    return sorted_upwards(logits)[:, :-1]


def standardise(scores: Tensor) -> Tensor:
    """Scores (N, R) less the mean of each row, over the row's deviation (that of all, over R)."""
    centred = scores - scores.mean(dim=1, keepdim=True)
    variance = centred.square().mean(dim=1, keepdim=True)
    return centred / (variance.clamp_min(_LEAST_VARIANCE).sqrt() + _EPSILON)


RANK_SHAPES = {
    "paper": RankShape(sorted_upwards),
    "below-first": RankShape(_without_largest, fewest_classes=3),
    "standardised": RankShape(
        lambda z: standardise(sorted_upwards(z)), standardised=True, fewest_classes=3
    ),
    "standardised-below-first": RankShape(
        lambda z: standardise(_without_largest(z)), standardised=True, fewest_classes=4
    ),
    "shuffled-ranks": RankShape(sorted_upwards, shuffled=True),
}


def rank_shape(name: str, classes: int) -> RankShape:
    """What DSR remembers with this `dsr_shape`; with `norm-variance`, which has none, the paper's.

    Raises:
        UserError: with so few classes, the shape teaches nothing.
    """
    shape = RANK_SHAPES.get(name, RANK_SHAPES["paper"])
    if classes < shape.fewest_classes:
        raise UserError(
            f"dsr_shape {name}: with {classes} classes all pictures have one such shape, so it "
            f"teaches nothing; expected {shape.fewest_classes} classes or more; use dsr_shape: "
            "paper"
        )
    return shape


def shuffled_order(count: int) -> Tensor:
    """A random permutation of `count` ranks, always the same one: int64 (count,)."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(_SHUFFLE_SEED))


def norm_variance(logits: Tensor, kept: Tensor | None = None) -> Tensor:
    """The variance of the norm of centred logits (N, K) over the batch, over K: float32 scalar.

    Args:
        logits: (N, K).
        kept: bool (N,), the rows that count; None: all.
    """
    values = logits.float()
    centred = values - values.mean(dim=1, keepdim=True)
    norms = centred.square().sum(dim=1).clamp_min(_LEAST_VARIANCE).sqrt()
    mean = mean_of_rows(norms, kept)
    return mean_of_rows((norms - mean).square(), kept) / logits.shape[1]


def mean_of_rows(values: Tensor, kept: Tensor | None) -> Tensor:
    """The mean of float32 values (N, ...) over the rows that are kept; 0 where none is."""
    if kept is None:
        return values.mean(dim=0)
    share = kept / kept.sum().clamp_min(1)
    return torch.einsum("n,n...->...", share, values)


def unmixed_rows(targets: Tensor, *, of: int) -> Tensor:
    """1 for each row whose target is one class, else 0: float32 (of,), repeated for each head.

    `targets` are probabilities (N, K). A mixture of two pictures of one class has one class, too.
    """
    kept = (targets.max(dim=1)[0] >= 1.0 - _ROUNDING).float()
    return kept.repeat(of // len(kept))
