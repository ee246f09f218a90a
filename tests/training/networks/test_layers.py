"""Fast layers: what torchvision's compute, with its names and its counters."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.shufflenetv2 import InvertedResidual

from training.config.plan import Plan
from training.data import Dataset
from training.data.batches import Batch
from training.engine import step
from training.engine.build import build_learner
from training.engine.execution import Execution
from training.engine.process_group import ProcessGroup
from training.networks.layers import (
    ChannelsLastUnit,
    InPlaceReLU6,
    PointwiseConvolution,
    UncountedBatchNorm,
    batch_counters,
    use_cpu_layers,
    use_fast_layers,
)
from training.networks.students import build_student

WIDTHS = {"mobilenetv2": 0.25, "shufflenetv2": 0.5, "resnet18": 1.0}
POINTWISE = {"mobilenetv2": 34, "shufflenetv2": 36, "resnet18": 0}  # resnet18's have a stride


def norm(values: list[Tensor]) -> float:
    return float(torch.cat([value.flatten().double() for value in values]).norm())


@pytest.mark.parametrize("arch", WIDTHS)
def test_the_same_numbers_by_the_same_names(arch: str) -> None:
    torch.manual_seed(0)
    plain = build_student(arch, num_classes=10, image_size=16, width=WIDTHS[arch])
    plain.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    for module in plain.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    fast = copy.deepcopy(plain)
    use_fast_layers(fast)
    kinds = [type(module) for module in fast.modules()]
    assert kinds.count(PointwiseConvolution) == POINTWISE[arch]
    assert nn.BatchNorm2d not in kinds
    assert len(batch_counters(fast)) == kinds.count(UncountedBatchNorm) > 10
    images = torch.randn(8, 3, 16, 16).to(memory_format=torch.channels_last)
    for network in (plain, fast):
        network(images).square().sum().backward()
    pairs = list(zip(plain.parameters(), fast.parameters(), strict=True))
    gradients = [p.grad for p, _ in pairs if p.grad is not None]
    assert norm([p.grad - q.grad for p, q in pairs]) < 0.02 * norm(gradients)  # type: ignore[operator]
    assert all(int(counter) == 0 for counter in batch_counters(fast))
    torch._foreach_add_(batch_counters(fast), 1)
    left, right = plain.state_dict(), fast.state_dict()
    assert list(left) == list(right)
    assert all(torch.allclose(left[name], right[name], atol=1e-4) for name in left)
    fast.load_state_dict(left)
    assert torch.equal(plain.eval()(images), fast.eval()(images))


@pytest.mark.parametrize(
    ("arch", "width"), [("mobilenetv2", 0.25), ("shufflenetv2", 0.5), ("shufflenetv2", 1.0)]
)
def test_layers_for_a_cpu_change_no_bit(arch: str, width: float) -> None:
    torch.manual_seed(0)
    plain = build_student(arch, num_classes=10, image_size=32, width=width).train()
    plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fast = copy.deepcopy(plain)
    use_cpu_layers(fast)
    images = 3 * torch.randn(8, 3, 32, 32).to(memory_format=torch.channels_last)
    for network in (plain, fast):
        torch.manual_seed(1)  # dropout
        network(images).square().sum().backward()
    pairs = zip(plain.parameters(), fast.parameters(), strict=True)
    assert all(torch.equal(p.grad, q.grad) for p, q in pairs)  # type: ignore[arg-type]
    left, right = plain.state_dict(), fast.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert torch.equal(plain.eval()(images), fast.eval()(images))


def test_units_for_a_cpu_keep_maps_and_gradients_channels_last() -> None:
    student = build_student("shufflenetv2", num_classes=10, image_size=32, width=0.5).train()
    student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    use_cpu_layers(student)
    maps: dict[str, Tensor] = {}
    unit = student.get_submodule("stage3.1")
    unit.register_forward_hook(lambda _m, _i, output: maps.update(forward=output))
    unit.register_full_backward_hook(lambda _m, given, _o: maps.update(backward=given[0]))
    student(torch.randn(8, 3, 32, 32).to(memory_format=torch.channels_last)).sum().backward()
    for name in ("forward", "backward"):
        assert maps[name].is_contiguous(memory_format=torch.channels_last), name


@pytest.mark.parametrize(("kind", "kept"), [(nn.ReLU6, False), (InPlaceReLU6, True)])
def test_relu6_for_a_cpu_keeps_its_result_and_no_copy(kind: type, *, kept: bool) -> None:
    seen: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        seen.append(tensor)
        return tensor

    images = torch.randn(4, 8).mul(5).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = kind(inplace=True)(images * 1)
    assert any(tensor.data_ptr() == result.data_ptr() for tensor in seen) is kept


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("arch", "own", "fast"),
    [
        ("shufflenetv2", InvertedResidual, ChannelsLastUnit),
        ("mobilenetv2", nn.ReLU6, InPlaceReLU6),
    ],
)
def test_a_cpu_trains_its_own_layers_unless_they_are_compiled(
    arch: str,
    own: type,
    fast: type,
    *,
    compiled: bool,
    tiny_data: Dataset,
    make_plan: Callable[..., Plan],
) -> None:
    execution = Execution(device="cpu", compiled=compiled, precision="fp32")
    learner = build_learner(
        make_plan("ce", arch=arch),
        tiny_data,
        steps_per_epoch=4,
        device=torch.device("cpu"),
        execution=execution,
    )
    kinds = {type(module) for module in learner.student.modules()}
    assert (fast in kinds, own in kinds) == (not compiled, compiled)


def test_a_step_counts_the_batches(
    tiny_data: Dataset,
    make_plan: Callable[..., Plan],
    first_batch: Callable[[Dataset, int], Batch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step, "_compiled", lambda terms: terms)
    batch = first_batch(tiny_data, 8)
    found = []
    for compiled in (False, True):
        learner = build_learner(
            make_plan("drg+dsr"),
            tiny_data,
            steps_per_epoch=2,
            device=torch.device("cpu"),
            execution=Execution(device="cuda", compiled=compiled, precision="fp32"),
        )
        counted = len(batch_counters(learner.student))
        assert bool(counted) is compiled
        torch.manual_seed(0)
        for _ in range(2):
            learner.step(batch, learning_rate=0.01, scale=1.0)
        state = {**learner.student.state_dict(), **learner.methods.state_dict()}
        counters = [state[name] for name in state if name.endswith("num_batches_tracked")]
        assert len(counters) > 50
        assert all(int(counter) == 2 for counter in counters)
        found.append(learner.log.take(ProcessGroup()))
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-5)
