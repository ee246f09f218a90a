"""One step: bit-equal to plain training where it must be, and different where it must be."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.base.errors import UserError
from training.config.plan import Plan
from training.data import Dataset
from training.data.batches import Batch, Batches
from training.engine.build import build_augmentation, build_learner
from training.engine.learner import Learner
from training.engine.process_group import ProcessGroup
from training.engine.weight_average import WeightAverage
from training.networks.students import build_student

CPU = torch.device("cpu")
MakePlan = Callable[..., Plan]


def train_steps(plan: Plan, data: Dataset, steps: int = 6) -> tuple[Learner, np.ndarray]:
    learner = build_learner(plan, data, steps_per_epoch=steps, device=CPU)
    batches = Batches(
        data.train_images, data.train_labels, batch_size=8, device=CPU, seed=plan.seed
    )
    for batch in batches.epoch(0):
        learner.step(batch, learning_rate=0.05, scale=1.0)
    return learner, learner.log.take(ProcessGroup())


def equal_states(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("arch", ["mobilenetv2", "shufflenetv2"])
def test_without_terms_it_is_plain_cross_entropy_bit_by_bit(
    tiny_data: Dataset, make_plan: MakePlan, arch: str
) -> None:
    plan = make_plan("ce", arch=arch)
    learner, _ = train_steps(plan, tiny_data)

    torch.manual_seed(plan.seed)
    student = build_student(arch, num_classes=3, image_size=16, width=plan.width)
    student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    vectors = [p for p in student.parameters() if p.ndim <= 1]
    weights = [p for p in student.parameters() if p.ndim > 1]
    optimizer = torch.optim.SGD(
        [{"params": weights}, {"params": vectors}], lr=0.05, momentum=0.9, nesterov=True, fused=True
    )
    augment = partial(
        build_augmentation(plan, device=CPU).augment,
        num_classes=3,
        generator=torch.Generator().manual_seed(plan.seed),
    )
    for images, labels, *_ in Batches(
        tiny_data.train_images, tiny_data.train_labels, batch_size=8, device=CPU, seed=plan.seed
    ).epoch(0):
        pixels, targets = augment(images, labels)
        optimizer.zero_grad()
        F.cross_entropy(student(pixels), targets).backward()
        optimizer.step()

    assert equal_states(learner.student.state_dict(), student.state_dict())
    assert learner.auxiliary_params == 0
    assert not learner.methods.state_dict()


def test_zero_weights_train_as_if_the_terms_were_off(
    tiny_data: Dataset, make_plan: MakePlan
) -> None:
    plain, _ = train_steps(make_plan("ce"), tiny_data)
    weightless, _ = train_steps(make_plan("dsr", dsr_weight=0), tiny_data)
    assert equal_states(plain.student.state_dict(), weightless.student.state_dict())


def test_students_start_equal_whatever_the_terms(tiny_data: Dataset, make_plan: MakePlan) -> None:
    first, *others = (
        build_learner(make_plan(terms), tiny_data, steps_per_epoch=1, device=CPU)
        for terms in ("ce", "drg", "dsr", "drg+dsr")
    )
    for other in others:
        assert equal_states(first.student.state_dict(), other.student.state_dict())


@pytest.mark.parametrize(
    ("terms", "names"),
    [
        ("ce", ("cross_entropy",)),
        ("drg", ("cross_entropy", "auxiliary_cross_entropy", "drg")),
        ("dsr", ("cross_entropy", "dsr")),
        ("drg+dsr", ("cross_entropy", "auxiliary_cross_entropy", "drg", "dsr")),
    ],
)
@pytest.mark.parametrize("arch", ["mobilenetv2", "shufflenetv2"])
def test_every_choice_of_terms_trains(
    tiny_data: Dataset, make_plan: MakePlan, arch: str, terms: str, names: tuple[str, ...]
) -> None:
    learner, rows = train_steps(make_plan(terms, arch=arch), tiny_data)
    plain, _ = train_steps(make_plan("ce", arch=arch), tiny_data)
    assert learner.log.names == names
    assert rows.shape == (6, len(names))
    assert np.isfinite(rows).all()
    same = equal_states(learner.student.state_dict(), plain.student.state_dict())
    assert same == (terms == "ce")
    assert (learner.auxiliary_params > 0) == ("drg" in terms)
    if "dsr" in terms:  # the first batch has no predecessor, every other has
        assert (rows[:, -1] > 0).tolist() == [False] + [True] * 5


@pytest.mark.parametrize("teacher", ["previous", "mean", "ema"])
def test_every_dsr_teacher_trains(tiny_data: Dataset, make_plan: MakePlan, teacher: str) -> None:
    _, rows = train_steps(make_plan("dsr", dsr_teacher=teacher), tiny_data)
    assert (rows[1:, 1] > 0).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"mixup": 0.2},
        {"cutmix": 1.0, "label_smoothing": 0.1},
        {"random_erasing": 0.5},
        {"optimizer": "adamw"},
        {"decay_norms_and_biases": True, "weight_decay": 0.1},
        {"drg_weight": 1.0},
        {"tap": 3},
        {"head_width": 2.0},
    ],
)
def test_every_option_changes_the_training(
    tiny_data: Dataset, make_plan: MakePlan, changes: dict[str, object]
) -> None:
    changed, rows = train_steps(make_plan("drg", **changes), tiny_data)
    default, _ = train_steps(make_plan("drg"), tiny_data)
    assert np.isfinite(rows).all()
    assert not equal_states(changed.student.state_dict(), default.student.state_dict())


def test_weight_decay_leaves_norms_and_biases_alone(
    tiny_data: Dataset, make_plan: MakePlan, first_batch: Callable[[Dataset, int], Batch]
) -> None:
    def first_bias(**changes: object) -> Tensor:
        plan = make_plan("ce", **changes)
        learner = build_learner(plan, tiny_data, steps_per_epoch=1, device=CPU)
        learner.step(first_batch(tiny_data, 8), learning_rate=0.05, scale=1.0)
        return learner.student.get_parameter("features.1.conv.2.weight")

    assert torch.equal(first_bias(weight_decay=0.5), first_bias())
    assert not torch.equal(first_bias(weight_decay=0.5, decay_norms_and_biases=True), first_bias())


def test_the_average_lags_behind_the_weights(tiny_data: Dataset, make_plan: MakePlan) -> None:
    name = "features.0.0.weight"
    learner, _ = train_steps(make_plan("ce", ema_decay=0.9), tiny_data)
    assert learner.average is not None
    start = build_learner(make_plan("ce"), tiny_data, steps_per_epoch=1, device=CPU)
    student = learner.student
    averaged, last = learner.networks().student[name], student.get_parameter(name)
    first = start.student.get_parameter(name)
    assert 0 < (averaged - first).norm() < (last - first).norm()
    with learner.average.applied():
        assert torch.equal(student.get_parameter(name), averaged)
    assert not torch.equal(student.get_parameter(name), averaged)


def test_the_average_decays_as_tensorflow_s_does() -> None:
    """min(decay, (1 + t) / (10 + t)) for t = 0, 1, 2, ..., worked out by hand."""
    layer = nn.Linear(1, 1, bias=False)
    average = WeightAverage(layer, decay=0.15)
    expected = float(layer.weight.detach())
    for weight, decay in ((2.0, 1 / 10), (-3.0, 0.15), (5.0, 0.15)):  # 2 / 11 is over 0.15
        nn.init.constant_(layer.weight, weight)
        average.update()
        expected = decay * expected + (1 - decay) * weight
        assert float(average.averaged["weight"]) == pytest.approx(expected, rel=1e-5)


def test_a_short_run_s_average_has_forgotten_the_start() -> None:
    """At a constant decay of 0.999 it would be 82 % of it: an untrained student, deployed."""
    layer = nn.Linear(3, 2)
    average = WeightAverage(layer, decay=0.999)
    nn.init.constant_(layer.weight, 7.0)
    for _ in range(200):
        average.update()
    torch.testing.assert_close(average.averaged["weight"], torch.full((2, 3), 7.0))


def test_the_average_never_waits_for_its_device() -> None:
    """A captured step replays what it launched: a number read back would never change again."""
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).to("meta")  # has no values to read
    average = WeightAverage(network, decay=0.9)
    average.update()
    assert average.updates.device == torch.device("meta")


def test_an_average_without_its_number_of_updates_does_not_go_on(
    tiny_data: Dataset, make_plan: MakePlan
) -> None:
    learner = build_learner(
        make_plan("ce", ema_decay=0.9), tiny_data, steps_per_epoch=1, device=CPU
    )
    state = learner.state_dict()
    learner.load_state_dict(state)
    del state["average_updates"]
    with pytest.raises(UserError, match="before the average warmed up") as info:
        learner.load_state_dict(state)
    assert "\n" not in str(info.value)
    plain = build_learner(make_plan("ce"), tiny_data, steps_per_epoch=1, device=CPU)
    plain.load_state_dict(state)  # nothing is averaged, so nothing is missing


def test_another_device_s_optimizer_state_leaves_the_own_settings(
    tiny_data: Dataset, make_plan: MakePlan
) -> None:
    """AdamW of a run that began on a CPU could not be captured on the GPU that goes on with it."""
    learner, _ = train_steps(make_plan("ce", optimizer="adamw"), tiny_data)
    state = learner.state_dict()
    for group in state["optimizer"]["param_groups"]:
        group.update(capturable=True, lr=torch.tensor(0.7))  # as they are on a GPU
    fresh = build_learner(
        make_plan("ce", optimizer="adamw"), tiny_data, steps_per_epoch=6, device=CPU
    )
    fresh.load_state_dict(state)
    for group in fresh.optimizer.param_groups:
        assert (group["capturable"], group["lr"]) == (False, 0.0)
    parameter = fresh.student.get_parameter("features.0.0.weight")
    former = learner.student.get_parameter("features.0.0.weight")
    averages = [
        one.optimizer.state[p]["exp_avg"] for one, p in ((fresh, parameter), (learner, former))
    ]
    assert torch.equal(*averages)
