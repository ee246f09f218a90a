"""A student that computes through int8 numbers: folding, ranges, what learns, what is refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from runtime.base.errors import UserError
from training.networks.students import build_student
from training.quantization.operators import INPUT
from training.quantization.quantized_student import QuantizedStudent, _range_of
from training.quantization.rounding import weight_steps

STUDENTS = [("mobilenetv2", 0.25), ("shufflenetv2", 0.5), ("resnet18", 1.0)]


def student_with_statistics(arch: str, width: float) -> nn.Module:
    torch.manual_seed(0)
    student = build_student(arch, num_classes=5, image_size=16, width=width)
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    student.train()(images())
    return student.eval()


def images() -> torch.Tensor:
    return torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("arch", "width"), STUDENTS)
@pytest.mark.parametrize("kind", ["int8", "int8-cpu"])
def test_it_answers_nearly_like_the_student(arch: str, width: float, kind: str) -> None:
    student = student_with_statistics(arch, width)
    exact = student(images()).detach()
    quantized = QuantizedStudent(student, kind, arch=arch)
    quantized.observe(images())
    rounded = quantized(images()).detach()
    error = (rounded - exact).abs().mean() / exact.std()
    # An untrained network has no margin: what a layer loses grows through those that follow, so
    # these bounds are what was measured, with a margin. What follows from the rounding is a bound
    # for one layer, which the next test has.
    assert 1e-4 < error < (0.15 if arch == "resnet18" else 0.75)


@pytest.mark.parametrize(
    ("arch", "width", "first"),
    [("mobilenetv2", 0.25, "features.0.0"), ("shufflenetv2", 0.5, "conv1.0")],
)
@pytest.mark.parametrize("kind", ["int8", "int8-cpu"])
def test_a_layer_loses_what_its_steps_say(arch: str, width: float, first: str, kind: str) -> None:
    """Rounding by a step s adds noise of variance s^2 / 12 to each pixel and to each weight."""
    student = student_with_statistics(arch, width)
    quantized = QuantizedStudent(student, kind, arch=arch)
    quantized.observe(images())
    rounded = quantized.outputs(images(), {"first": first}).features["first"].detach()
    module = student.get_submodule(first)
    quantized._observed = {}  # nothing is rounded while ranges are observed
    exact = quantized.outputs(images(), {"first": first}).features["first"].detach()
    operator = next(o for o in quantized.traced.operators.values() if o.name == first)
    weight, _ = quantized.folded(operator, module, quantized._steps())
    of_weights = weight_steps(weight, quantized._grid).square() / 12
    step = quantized._steps()[quantized._index[INPUT]]
    squares = F.conv2d(
        images().square(), torch.ones_like(weight[:1]), None, module.stride, module.padding
    ).mean()
    variance = weight.square().flatten(1).sum(1) * step.square() / 12 + squares * of_weights
    measured = (rounded - exact).square().mean()
    ratio = float((measured / variance.mean()).detach())
    assert ratio == pytest.approx(1.0, abs=0.5)


def test_a_layer_has_its_batch_norm_in_it() -> None:
    student = student_with_statistics("mobilenetv2", 0.25)
    quantized = QuantizedStudent(student, "int8", arch="mobilenetv2")
    quantized._observed = {}  # nothing is rounded while ranges are observed
    assert torch.allclose(quantized(images()), student(images()), atol=1e-4)


def test_weights_shifts_and_steps_learn_and_statistics_do_not() -> None:
    student = student_with_statistics("mobilenetv2", 0.25)
    quantized = QuantizedStudent(student, "int8-cpu", arch="mobilenetv2").train()
    quantized.observe(images())
    before = {name: value.clone() for name, value in quantized.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in quantized.parameters() if p.requires_grad], lr=0.1)
    quantized(images()).square().mean().backward()
    optimizer.step()
    changed = {k for k, value in quantized.state_dict().items() if not before[k].equal(value)}
    assert "growth" in changed
    assert {"student.features.0.0.weight", "student.features.0.1.bias"} <= changed
    frozen = ("running_mean", "running_var", "num_batches_tracked", "first_steps", "zero_points")
    assert not [name for name in changed if name.endswith(frozen)]
    assert "student.features.0.1.weight" not in changed


def test_a_range_ends_where_the_activation_does() -> None:
    quantized = QuantizedStudent(
        student_with_statistics("mobilenetv2", 0.25), "int8-cpu", arch="mobilenetv2"
    )
    quantized.observe(1e4 * images())
    with torch.no_grad():
        quantized.growth += 1.0  # every step grows e^10 times as large
    ranges = quantized.ranges()
    assert ranges["features.0.0.clip"] == pytest.approx((0.0, 6.0))
    assert ranges[INPUT][1] > 6


@pytest.mark.parametrize(
    ("shape", "large"),
    [((64, 1024, 4, 4), (slice(None), slice(None), 1, 1)), ((64, 1280, 4, 4), (slice(None), 4))],
)
def test_the_first_range_is_that_of_all_pixels_and_channels(
    shape: tuple[int, ...], large: tuple[object, ...]
) -> None:
    """A stride of 16 saw only the corner of the first shape, one of 20 no channel 4 of the second.

    The large values are one in 16, and one in 1,280: more than are cut off.
    """
    values = torch.zeros(shape)
    values[large] = 9.0
    assert _range_of(values) == (0.0, 9.0)


def test_feature_maps_are_those_of_the_modules() -> None:
    student = student_with_statistics("shufflenetv2", 0.5)
    quantized = QuantizedStudent(student, "int8", arch="shufflenetv2")
    quantized.observe(images())
    found = quantized.outputs(images(), {"stage2": "stage2", "last": "conv5"}).features
    assert {key: tuple(value.shape[1:]) for key, value in found.items()} == {
        "stage2": (48, 8, 8),
        "last": (1024, 2, 2),
    }


def test_a_student_that_cannot_is_refused() -> None:
    student = build_student("densenet121", num_classes=5, image_size=16)
    with pytest.raises(UserError, match="densenet121 cannot be trained for int8: its BatchNorm"):
        QuantizedStudent(student, "int8", arch="densenet121")
