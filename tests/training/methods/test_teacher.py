"""Distillation from another network: its formula, what it sees, and what it leaves untouched."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from training.config.method_registry import chosen_methods
from training.config.plan import Plan
from training.data import Dataset
from training.data.batches import Batch
from training.engine.build import build_batches, build_learner
from training.engine.learner import Learner
from training.engine.process_group import ProcessGroup
from training.engine.step import Step
from training.methods.method import Outputs
from training.methods.teacher import Teacher
from training.networks.students import build_student

CPU = torch.device("cpu")
MakePlan = Callable[..., Plan]
COMPANY = [("ce",), ("ce", "drg", "dsr"), ("cs-kd",), ("dlb",), ("zipf-ls",)]


def network(arch: str = "resnet18") -> nn.Module:
    torch.manual_seed(11)
    return build_student(arch, num_classes=3, image_size=16)


def learner_of(
    plan: Plan, data: Dataset, teacher: nn.Module | None, methods: tuple[str, ...]
) -> Learner:
    own = replace(plan, methods=methods)
    return build_learner(own, data, steps_per_epoch=4, device=CPU, teacher=teacher)


def first_terms(learner: Learner, plan: Plan, data: Dataset, *, steps: int = 1) -> np.ndarray:
    batches = build_batches(plan, data, np.arange(len(data.train_labels)), device=CPU)
    for _, batch in zip(range(steps), batches.epoch(0), strict=False):
        learner.step(batch, learning_rate=0.02, scale=1.0)
    return learner.log.take(ProcessGroup())


def test_a_teacher_goes_beside_terms_and_beside_peers() -> None:
    assert chosen_methods(["teacher", "dsr", "drg"]) == ("ce", "drg", "dsr", "teacher")
    assert chosen_methods(["teacher"]) == ("ce", "teacher")
    assert chosen_methods(["teacher"], peer="dlb") == ("dlb", "teacher")


def test_the_divergence_is_hintons(tiny_data: Dataset, make_plan: MakePlan) -> None:
    """In NumPy and float64, from the formula."""
    plan = make_plan("ce", teacher_weight=0.7, teacher_temperature=3.0)
    learner = learner_of(plan, tiny_data, network(), ("ce", "teacher"))
    method = learner.methods["teacher"]
    assert isinstance(method, Teacher)
    images = torch.randn(5, 3, 16, 16)
    with torch.no_grad():
        theirs = network().eval()(images).double().numpy()
    ours = torch.randn(5, 3, requires_grad=True)
    batch = Batch(images, torch.zeros(5, dtype=torch.int64), torch.arange(5), None)
    value = method.terms(lambda _: Outputs(ours, {}), batch).values["teacher"]

    def softened(logits: np.ndarray) -> np.ndarray:
        powers = np.exp(logits / 3.0)
        return powers / powers.sum(axis=1, keepdims=True)

    p, q = softened(theirs), softened(ours.detach().double().numpy())
    expected = 0.7 * 9.0 * (p * np.log(p / q)).sum(axis=1).mean()
    assert value.item() == pytest.approx(expected, rel=1e-5)
    value.backward()  # type: ignore[no-untyped-call]
    # The gradient of T² KL( p ‖ q ) for the logits is T (q - p), here the mean over five rows.
    assert ours.grad is not None
    np.testing.assert_allclose(ours.grad.numpy(), 0.7 * 3.0 * (q - p) / 5, atol=1e-6)


@pytest.mark.parametrize("company", COMPANY, ids="+".join)
def test_a_teacher_adds_its_term_and_changes_no_other(
    tiny_data: Dataset, make_plan: MakePlan, company: tuple[str, ...]
) -> None:
    peer = company[0] if company[0] != "ce" else "none"
    plan = make_plan("ce", arch="shufflenetv2", peer=peer)
    alone = learner_of(plan, tiny_data, None, company)
    taught = learner_of(plan, tiny_data, network(), (*company, "teacher"))
    own = first_terms(alone, plan, tiny_data)[0]
    terms = first_terms(taught, plan, tiny_data)[0]
    assert taught.log.names == (*alone.log.names, "teacher")
    np.testing.assert_array_equal(terms[:-1], own)
    assert terms[-1] > 0


def test_a_teacher_stays_as_it_is_and_is_no_part_of_the_run(
    tiny_data: Dataset, make_plan: MakePlan
) -> None:
    teacher, plan = network(), make_plan("drg+dsr", arch="shufflenetv2")
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    alone = learner_of(plan, tiny_data, None, ("ce", "drg", "dsr"))
    taught = learner_of(plan, tiny_data, teacher, ("ce", "drg", "dsr", "teacher"))
    taught.methods.train()
    first_terms(taught, plan, tiny_data, steps=4)
    assert not teacher.training
    assert all(value.grad is None for value in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    for part in ("student", "auxiliary"):
        kept, expected = getattr(taught.networks(), part), getattr(alone.networks(), part)
        assert kept.keys() == expected.keys()
    assert taught.auxiliary_params == alone.auxiliary_params


@pytest.mark.parametrize("mixing", [{}, {"mixup": 0.4, "label_smoothing": 0.1}])
def test_the_teacher_sees_the_pixels_that_the_student_sees(
    tiny_data: Dataset, make_plan: MakePlan, mixing: dict[str, float]
) -> None:
    teacher, plan = network(), make_plan("ce", arch="shufflenetv2", **mixing)
    learner = learner_of(plan, tiny_data, teacher, ("ce", "teacher"))
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], _output: object) -> None:
            assert name not in seen  # each of them is asked once
            seen[name] = inputs[0].clone()

        return hook

    teacher.register_forward_hook(keep("teacher"))
    learner.student.register_forward_hook(keep("student"))
    first_terms(learner, plan, tiny_data)
    assert torch.equal(seen["teacher"], seen["student"])


def test_a_compiler_sees_a_taught_step_as_one_whole_graph(
    tiny_data: Dataset, make_plan: MakePlan
) -> None:
    torch._dynamo.reset()
    plan, methods, curves = make_plan("ce", arch="shufflenetv2"), ("ce", "teacher"), []
    for compiled in (False, True):
        learner = learner_of(plan, tiny_data, network("shufflenetv2"), methods)
        assert isinstance(learner.step, Step)
        if compiled:
            learner.step.loss = torch.compile(
                learner.step.loss, backend="aot_eager", fullgraph=True, dynamic=False
            )
        curves.append(first_terms(learner, plan, tiny_data, steps=2))
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-3, atol=1e-5)
