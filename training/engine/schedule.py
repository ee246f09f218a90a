"""Learning rate and distillation weights as pure functions of the step.

Nothing here has state, so a resumed run follows the same curve by construction.
"""

import math

from training.config.recipe import Recipe

_ONE_CYCLE_RISE = 0.3  # share of the steps in which one-cycle climbs
_ONE_CYCLE_START = 1 / 25  # of the highest rate
_ONE_CYCLE_END = 1 / 250_000


def learning_rate(recipe: Recipe, *, step: int, steps_per_epoch: int) -> float:
    """The rate of update `step`, counted from 0."""
    total = recipe.epochs * steps_per_epoch
    if recipe.schedule == "one-cycle":
        return recipe.learning_rate * _one_cycle(step, total)
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / (warmup + 1)
    if recipe.schedule == "cosine":
        progress = (step - warmup) / max(1, total - warmup)
        return recipe.learning_rate * _cosine(1.0, 0.0, progress)
    # Milestones fall on whole epochs, as in the published recipes, and never before the first.
    epoch = step // steps_per_epoch
    passed = sum(epoch >= max(1, round(share * recipe.epochs)) for share in recipe.milestones)
    return recipe.learning_rate * recipe.milestone_factor**passed


def distillation_scale(recipe: Recipe, *, step: int, steps_per_epoch: int) -> float:
    """What the weights of DRG and DSR are multiplied by at update `step`: 1 after the warm-up."""
    warmup = round(recipe.distillation_warmup_epochs * steps_per_epoch)
    return min(1.0, (step + 1) / (warmup + 1))


def _one_cycle(step: int, total: int) -> float:
    rise = max(1, round(_ONE_CYCLE_RISE * total))
    if step < rise:
        return _cosine(_ONE_CYCLE_START, 1.0, step / rise)
    return _cosine(1.0, _ONE_CYCLE_END, (step - rise) / max(1, total - 1 - rise))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
