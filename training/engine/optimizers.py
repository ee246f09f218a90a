"""How the weights are updated: optimizers, and their rates as pure functions of the step.

The schedules have no state, so a resumed run follows the same curve by construction.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn

from training.config.recipe import Recipe

_ONE_CYCLE_RISE = 0.3  # share of the steps in which one-cycle climbs
_ONE_CYCLE_START = 1 / 25  # of the highest rate
_ONE_CYCLE_END = 1 / 250_000


def build_optimizer(modules: Sequence[nn.Module], recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW, fused, on the device of `modules`.

    On CUDA the learning rate is a tensor on the device, so that a CUDA graph reads it anew at each
    replay; on CPU it is a number.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    device = parameters[0].device
    on_cuda = device.type == "cuda"
    rate = torch.zeros((), device=device) if on_cuda else 0.0
    groups = _groups(parameters, recipe)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, fused=True, capturable=on_cuda)
    nesterov = recipe.momentum > 0
    return torch.optim.SGD(groups, lr=rate, momentum=recipe.momentum, nesterov=nesterov, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the rate of all groups, in place where it is a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _groups(parameters: list[nn.Parameter], recipe: Recipe) -> list[dict[str, object]]:
    """Weights decay; norms and biases, the parameters with one dimension, only if asked to."""
    decayed = [p for p in parameters if recipe.decay_norms_and_biases or p.ndim > 1]
    others = [p for p in parameters if not recipe.decay_norms_and_biases and p.ndim <= 1]
    groups: list[dict[str, object]] = [{"params": decayed, "weight_decay": recipe.weight_decay}]
    if others:
        groups.append({"params": others, "weight_decay": 0.0})
    return groups


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
    # Milestones are whole epochs, as in the published recipes, and the first epoch is never one.
    epoch = step // steps_per_epoch
    passed = sum(epoch >= max(1, round(share * recipe.epochs)) for share in recipe.milestones)
    return recipe.learning_rate * recipe.milestone_factor**passed


def distillation_scale(recipe: Recipe, *, step: int, steps_per_epoch: int) -> float:
    """What the weights of DRG and DSR are multiplied by at update `step`: 1 after the warm-up."""
    warmup = round(recipe.distillation_warmup_epochs * steps_per_epoch)
    return min(1.0, (step + 1) / (warmup + 1))


def mix_share(recipe: Recipe, *, step: int, steps_per_epoch: int) -> float:
    """The share of the images that mixup or CutMix takes at update `step`: 0 in the last epochs."""
    last = round((recipe.epochs - recipe.unmixed_epochs) * steps_per_epoch)
    return recipe.mix_share if step < last else 0.0


def _one_cycle(step: int, total: int) -> float:
    rise = max(1, round(_ONE_CYCLE_RISE * total))
    if step < rise:
        return _cosine(_ONE_CYCLE_START, 1.0, step / rise)
    return _cosine(1.0, _ONE_CYCLE_END, (step - rise) / max(1, total - 1 - rise))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
