"""Optimizers whose learning rate can be changed while a captured step replays them."""

from collections.abc import Sequence

import torch
from torch import nn

from training.config.recipe import Recipe


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
