"""The shapes of DSR against formulas in NumPy and against gradients by finite differences."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.base.errors import UserError
from training.methods.rank_shapes import (
    RANK_SHAPES,
    mean_of_rows,
    norm_variance,
    rank_shape,
    shuffled_order,
    unmixed_rows,
)

ROWS, CLASSES = 5, 7
T, TAU = 4.0, 0.5
Array = NDArray[np.float64]


def logits_of(seed: int) -> Array:
    return np.random.default_rng(seed).normal(scale=3.0, size=(ROWS, CLASSES))


def softmax(values: Array) -> Array:
    exponentials = np.exp(values - values.max())
    return exponentials / exponentials.sum()


def standardised(values: Array) -> Array:
    return (values - values.mean()) / (values.std() + 1e-3)


def expected_loss(name: str, teacher: Array, student: Array) -> float:
    """The formulas of METHODS, one picture at a time: `teacher` and `student` are logits (K,)."""
    shapes = []
    for values in (teacher, student):
        ranks = np.sort(values)
        if name.endswith("below-first"):
            ranks = ranks[:-1]
        shapes.append(standardised(ranks) if name.startswith("standardised") else ranks)
    heat = TAU if name.startswith("standardised") else T
    q, p = softmax(shapes[0] / heat), softmax(shapes[1] / heat)
    return float(heat**2 * np.sum(q * np.log(q / p)))


def loss_of(name: str, teacher: Tensor, student: Tensor) -> Tensor:
    shape = RANK_SHAPES[name]
    remembered = shape.remembered(shape.scores(teacher), tau=TAU)
    return shape.divergences(remembered, shape.scores(student), temperature=T, tau=TAU)


@pytest.mark.parametrize(
    "name", [name for name, shape in RANK_SHAPES.items() if not shape.shuffled]
)
def test_a_shape_is_its_formula_and_so_is_its_gradient(name: str) -> None:
    teacher, student = logits_of(0), logits_of(1)
    leaf = torch.tensor(student, dtype=torch.float32, requires_grad=True)
    losses = loss_of(name, torch.tensor(teacher, dtype=torch.float32), leaf)
    expected = [expected_loss(name, q, p) for q, p in zip(teacher, student, strict=True)]
    np.testing.assert_allclose(losses.detach().numpy(), expected, rtol=1e-4, atol=1e-6)
    losses.sum().backward()
    assert leaf.grad is not None
    step = 1e-5
    for row in range(ROWS):
        for column in range(CLASSES):
            ends = []
            for sign in (1, -1):
                moved = student[row].copy()
                moved[column] += sign * step
                ends.append(expected_loss(name, teacher[row], moved))
            slope = (ends[0] - ends[1]) / (2 * step)
            assert leaf.grad[row, column].item() == pytest.approx(slope, rel=2e-3, abs=2e-5)


def test_a_standardised_shape_has_no_scale_and_no_offset() -> None:
    teacher, student = (torch.tensor(logits_of(seed)).float() for seed in (0, 1))
    for name in ("standardised", "standardised-below-first"):
        once = loss_of(name, teacher, student)
        torch.testing.assert_close(
            loss_of(name, 3 * teacher + 5, 2 * student - 1), once, rtol=5e-3, atol=1e-5
        )
    assert not torch.allclose(
        loss_of("paper", teacher, 2 * student), loss_of("paper", teacher, student), rtol=0.1
    )


def test_below_the_first_the_largest_logit_is_free() -> None:
    """It gets no gradient, and raising it changes nothing."""
    teacher, student = (torch.tensor(logits_of(seed)).float() for seed in (0, 1))
    for name in ("below-first", "standardised-below-first"):
        leaf = student.clone().requires_grad_()
        loss_of(name, teacher, leaf).sum().backward()
        first = student.argmax(dim=1)
        assert leaf.grad is not None
        assert torch.equal(leaf.grad[torch.arange(ROWS), first], torch.zeros(ROWS))
        raised = student.clone()
        raised[torch.arange(ROWS), first] += 10
        assert torch.equal(loss_of(name, teacher, raised), loss_of(name, teacher, student))


def test_a_shape_of_fewer_classes_is_the_same_for_all_pictures() -> None:
    for name, shape in RANK_SHAPES.items():
        for classes in (shape.fewest_classes - 1, shape.fewest_classes):
            teacher, student = (torch.tensor(logits_of(seed)[:, :classes]) for seed in (0, 1))
            losses = loss_of(name, teacher.float(), student.float())
            assert (losses.median() > 1e-4) == (classes == shape.fewest_classes), name


def test_a_shape_of_too_few_classes_is_refused() -> None:
    with pytest.raises(UserError, match="dsr_shape standardised: with 2 classes all pictures"):
        rank_shape("standardised", 2)
    assert rank_shape("standardised", 3) is RANK_SHAPES["standardised"]


def test_equal_logits_have_a_finite_slope() -> None:
    for name in RANK_SHAPES:
        leaf = torch.zeros(2, CLASSES, requires_grad=True)
        loss_of(name, torch.tensor(logits_of(0)[:2]).float(), leaf).sum().backward()
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()
    leaf = torch.zeros(2, CLASSES, requires_grad=True)
    norm_variance(leaf).backward()
    assert leaf.grad is not None
    assert torch.isfinite(leaf.grad).all()


def test_the_variance_of_the_norm_is_its_formula() -> None:
    logits = logits_of(2)
    centred = logits - logits.mean(axis=1, keepdims=True)
    norms = np.sqrt((centred**2).sum(axis=1))
    leaf = torch.tensor(logits, requires_grad=True)
    penalty = norm_variance(leaf)
    assert penalty.item() == pytest.approx(norms.var() / CLASSES, rel=1e-5)
    penalty.backward()
    slope = 2 / (ROWS * CLASSES) * ((norms - norms.mean()) / norms)[:, None] * centred
    np.testing.assert_allclose(leaf.grad, slope, rtol=1e-4, atol=1e-6)
    kept = torch.tensor([1.0, 0, 1, 1, 0])
    assert norm_variance(torch.tensor(logits), kept).item() == pytest.approx(
        norms[[0, 2, 3]].var() / CLASSES, rel=1e-5
    )


def test_papers_shape_is_a_penalty_on_variance_to_the_second_order() -> None:
    """With logits far below T, its mean over partners is the sum of Var(r_i) / K over ranks."""
    small = torch.tensor(logits_of(3)).double() / 1000
    ranks = torch.sort(small, dim=1)[0]
    centred = ranks - ranks.mean(dim=1, keepdim=True)
    total = 0.0
    for shift in range(ROWS):
        # float64 throughout, because these divergences are below the precision of float32.
        q = torch.softmax(ranks.roll(shift, 0) / T, dim=1)
        p = torch.softmax(ranks / T, dim=1)
        total += float(T**2 * (q * (q / p).log()).sum(dim=1).mean()) / ROWS
    variance = centred.var(dim=0, unbiased=False).sum().item() / CLASSES
    assert total == pytest.approx(variance, rel=1e-2)


def test_the_control_shuffles_every_rank_the_same_way() -> None:
    order = shuffled_order(CLASSES)
    assert sorted(order.tolist()) == list(range(CLASSES))
    assert not torch.equal(order, torch.arange(CLASSES))
    assert torch.equal(order, shuffled_order(CLASSES))


def test_rows_that_are_mixed_are_left_out() -> None:
    targets = torch.tensor([[1.0, 0.0], [0.7, 0.3], [0.0, 1.0]])
    kept = unmixed_rows(targets, of=6)
    assert kept.tolist() == [1, 0, 1, 1, 0, 1]
    values = torch.tensor([1.0, 100.0, 3.0])
    assert mean_of_rows(values, kept[:3]).item() == 2
    assert mean_of_rows(values, torch.zeros(3)).item() == 0
    assert mean_of_rows(values, None).item() == values.mean().item()


def test_a_share_that_a_gpu_has_rounded_is_none_of_a_mixture() -> None:
    side = 176
    ones = np.float32(side * side)
    rounded = float(ones * (np.float32(1) / ones))  # how CUDA takes the mean of ones
    assert rounded < 1
    one_pixel = 1 - 1 / 1024**2
    targets = torch.tensor([[rounded, 1 - rounded], [one_pixel, 1 - one_pixel]])
    assert unmixed_rows(targets, of=2).tolist() == [1, 0]
