"""Parameters and multiply-accumulates of a student, counted by torch."""

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class Cost(NamedTuple):
    """Of one image at deployment: the auxiliary head is not in it."""

    params: int
    macs: int


def cost_of(student: nn.Module, *, image_size: int) -> Cost:
    """Counts parameters, and the multiply-accumulates of convolutions and linear layers."""
    device = next(student.parameters()).device
    images = torch.zeros(1, 3, image_size, image_size, device=device)
    was_training = student.training
    student.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        student(images)
    student.train(was_training)
    params = sum(parameter.numel() for parameter in student.parameters())
    return Cost(params, counter.get_total_flops() // 2)  # torch counts a multiply-add as two
