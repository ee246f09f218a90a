"""Rounding to int8 numbers, and the gradients that pass through it."""

import pytest
import torch

from training.quantization.qdq_rules import GRIDS
from training.quantization.rounding import (
    RoundedActivation,
    representable,
    rounded_bias,
    rounded_weights,
)


def test_values_are_rounded_and_cut_off() -> None:
    values = torch.tensor([[0.24, 0.26, -9.0, 200.0]])
    found = RoundedActivation.apply(values, torch.tensor(0.5), torch.tensor(2.0), 0, 255)
    # The lowest integer 0 stands for -2 steps, the highest for 253.
    assert found.tolist() == [[0.0, 0.5, -1.0, 126.5]]


def test_the_gradients_are_those_of_the_paper() -> None:
    """LSQ, equation 3: round(v / s) - v / s inside, the bound outside; 1 / sqrt(N Q) of it."""
    values = torch.tensor([[0.7, -9.0, 200.0]], requires_grad=True)
    step = torch.tensor(0.5, requires_grad=True)
    RoundedActivation.apply(values, step, torch.tensor(2.0), 0, 255).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[1.0, 0.0, 0.0]]
    expected = ((1 - 1.4) + (0 - 2) + (255 - 2)) / (3 * 255) ** 0.5
    assert step.grad is not None
    assert float(step.grad) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("kind", "levels"), [("int8", 127), ("int8-cpu", 64)])
def test_each_channel_of_weights_has_its_own_step(kind: str, levels: int) -> None:
    torch.manual_seed(0)
    weights = torch.randn(4, 3, 3, 3) * torch.tensor([0.1, 1.0, 30.0, 0.0]).view(-1, 1, 1, 1)
    weights.requires_grad_()
    found = rounded_weights(weights, GRIDS[kind])
    for channel in range(3):
        step = weights[channel].abs().max() / levels
        assert (found[channel] / step).abs().max().item() == pytest.approx(levels, rel=2e-3)
        assert (found[channel] - weights[channel]).abs().max() <= 0.51 * step
    assert not found[3].any()
    found.sum().backward()
    assert weights.grad is not None
    assert (weights.grad == 1).all()  # straight through


def test_a_step_for_tensorrt_is_exact_in_float16() -> None:
    step = representable(torch.tensor([0.1234567, 1e-9]), GRIDS["int8"])
    assert (step.half().float() == step).all()
    assert step[1] > 1e-5  # the smallest normal number
    assert representable(torch.tensor(0.1234567), GRIDS["int8-cpu"]) == 0.1234567


def test_a_bias_is_a_whole_number_of_steps() -> None:
    found = rounded_bias(torch.tensor([0.12, -3.4]), torch.tensor([0.05, 1.0]))
    assert found.tolist() == pytest.approx([0.1, -3.0])
