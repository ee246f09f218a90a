"""What DSR does to the best answers: `python tests/benchmarks/shape_simulation.py`.

2,000 simulated pictures of 10 classes, some easy and some hard. The class probabilities of each are
known, and so is the best answer. The logits are free: no network limits them. They descend on

    the expected cross-entropy + β · the DSR term with random partners

until they stand still. Where DSR does no harm, the best answers stay the best. The rows say what is
left of them: accuracy, NLL at the best temperature, AUROC of right against wrong answers, and the
deviation of the confidence between pictures. Everything is an expectation over the known
probabilities, so no label is drawn. Prints a table.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from training.methods.rank_shapes import (
    NORM_VARIANCE,
    RANK_SHAPES,
    norm_variance,
    shuffled_order,
)

CLASSES = 10
WEIGHT, TEMPERATURE, TAU = 1.0, 4.0, 0.5  # of the recipes


def main() -> None:
    print("| DSR | top-1 % | NLL | AUROC | deviation of confidence |")
    print("|---|---|---|---|---|")
    for shape in (None, *RANK_SHAPES, NORM_VARIANCE):
        top1, nll, auroc, deviation = simulated(shape)
        print(
            f"| {shape or 'none'} | {100 * top1:.1f} | {nll:.3f} | {auroc:.3f} | {deviation:.3f} |"
        )


def simulated(
    shape: str | None, *, pictures: int = 2_000, steps: int = 1_500
) -> tuple[float, float, float, float]:
    """Accuracy, NLL, AUROC and the deviation of confidence with a shape; None: without DSR."""
    torch.manual_seed(0)
    truth = known_probabilities(pictures)
    logits = settled(truth, shape, steps=steps)
    right, confidence = hits(truth, logits), F.softmax(logits, dim=1).max(dim=1)[0]
    nll, auroc = best_nll(truth, logits), area(confidence, right)
    return float(right.mean()), nll, auroc, float(confidence.std())


def known_probabilities(pictures: int) -> Tensor:
    """Class probabilities (N, K): from pictures that are sure to pictures that are near a guess."""
    evidence = torch.randn(pictures, CLASSES)
    strength = torch.empty(pictures, 1).uniform_(0.3, 4.0)
    return F.softmax(strength * evidence, dim=1).double()


def settled(truth: Tensor, shape: str | None, *, steps: int) -> Tensor:
    """Logits (N, K) that cross-entropy and DSR agree on, from the best ones."""
    logits = truth.log().float()
    logits = (logits - logits.mean(dim=1, keepdim=True)).requires_grad_()
    descent = torch.optim.Adam([logits], lr=0.02)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(descent, steps)
    for _ in range(steps):
        loss = -(truth.float() * F.log_softmax(logits, dim=1)).sum(dim=1)
        total = (loss + WEIGHT * term(logits, shape)).sum()
        descent.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        descent.step()
        decay.step()
    return logits.detach().double()


def term(logits: Tensor, shape: str | None) -> Tensor:
    """The DSR term of each picture with a random partner, (N,)."""
    if shape is None:
        return torch.zeros(len(logits))
    if shape == NORM_VARIANCE:
        return norm_variance(logits).expand(len(logits))
    kind = RANK_SHAPES[shape]
    scores = kind.scores(logits)
    partners = kind.remembered(scores, tau=TAU)[torch.randperm(len(logits))]
    if kind.shuffled:
        partners = partners[:, shuffled_order(partners.shape[1])]
    return kind.divergences(partners, scores, temperature=TEMPERATURE, tau=TAU)


def hits(truth: Tensor, logits: Tensor) -> Tensor:
    """The probability that each answer is right, (N,)."""
    return truth.gather(1, logits.argmax(dim=1, keepdim=True))[:, 0]


def best_nll(truth: Tensor, logits: Tensor) -> float:
    """The expected NLL at the temperature at which it is lowest."""
    heats = torch.logspace(-1.5, 1.5, 301).double()
    return min(
        float(-(truth * F.log_softmax(logits / heat, dim=1)).sum(dim=1).mean()) for heat in heats
    )


def area(confidence: Tensor, right: Tensor) -> float:
    """The expected AUROC of confidence; a picture is right with probability `right`."""
    order = confidence.argsort()
    below = torch.cumsum((1 - right)[order], dim=0) - (1 - right)[order] / 2
    return float((right[order] * below).sum() / (right.sum() * (1 - right).sum()))


if __name__ == "__main__":
    main()
