"""DRG and DSR: the losses against an independent float64 computation, the head, the memory."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.published import published_recipe
from training.config.archs import ARCHS
from training.data.batches import Batch
from training.methods.drg_dsr import Drg, Dsr, drg_loss, dsr_loss, ranked
from training.methods.method import FeatureReader, Outputs, Setting
from training.networks.students import (
    build_student,
    classifier_name,
    cost_of,
    feature_channels,
    feature_modules,
)

ROWS, CLASSES = 6, 10


def logits_pair(seed: int = 0, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = np.random.default_rng(seed)
    pair = generator.normal(scale=spread, size=(2, ROWS, CLASSES)).astype(np.float32)
    return torch.from_numpy(pair[0]), torch.from_numpy(pair[1])


def numpy_softmax(row: NDArray[np.float64]) -> NDArray[np.float64]:
    exponentials = np.exp(row - row.max())
    return exponentials / exponentials.sum()


def numpy_kl(teacher: Tensor, student: Tensor, temperature: float) -> float:
    """T² times the batch mean of sum p (log p - log q), row by row in float64."""
    divergences = []
    for teacher_row, student_row in zip(
        teacher.double().numpy(), student.double().numpy(), strict=True
    ):
        p = numpy_softmax(teacher_row / temperature)
        q = numpy_softmax(student_row / temperature)
        divergences.append(np.sum(p * (np.log(p) - np.log(q))))
    return float(temperature**2 * np.mean(divergences))


@pytest.mark.parametrize("temperature", [1.0, 4.0, 10.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_drg_equals_the_float64_formula(temperature: float, seed: int) -> None:
    logits, auxiliary = logits_pair(seed)
    expected = numpy_kl(auxiliary, logits, temperature)
    assert drg_loss(logits, auxiliary, temperature=temperature).item() == pytest.approx(
        expected, rel=2e-5
    )


@pytest.mark.parametrize("temperature", [1.0, 4.0, 10.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_dsr_equals_the_float64_formula(temperature: float, seed: int) -> None:
    logits, previous = logits_pair(seed)
    teacher = torch.from_numpy(np.sort(previous.numpy(), axis=1))
    student = torch.from_numpy(np.sort(logits.numpy(), axis=1))
    expected = numpy_kl(teacher, student, temperature)
    assert dsr_loss(logits, ranked(previous), temperature=temperature).item() == pytest.approx(
        expected, rel=2e-5
    )


def test_golden_values() -> None:
    """Worked by hand: two classes, KL(σ(0, ln 3) ‖ σ(0, 0)) = ln 2 - H(1/4)."""
    teacher = torch.tensor([[0.0, np.log(3.0)]])
    flat = torch.zeros(1, 2)
    expected = 0.25 * np.log(0.25) + 0.75 * np.log(0.75) + np.log(2)
    assert drg_loss(flat, teacher, temperature=1.0).item() == pytest.approx(expected, rel=1e-6)
    # At temperature 2 the same divergence comes from logits twice as large, times 4.
    assert drg_loss(flat, 2 * teacher, temperature=2.0).item() == pytest.approx(
        4 * expected, rel=1e-6
    )


def test_one_shape_serves_all_rows() -> None:
    logits, previous = logits_pair()
    shape = ranked(previous).mean(dim=0, keepdim=True)
    repeated = shape.repeat(ROWS, 1)
    assert torch.equal(
        dsr_loss(logits, shape, temperature=4.0), dsr_loss(logits, repeated, temperature=4.0)
    )


def test_dsr_does_not_care_which_class_is_which() -> None:
    logits, previous = logits_pair()
    permutation = torch.randperm(CLASSES, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        dsr_loss(logits, ranked(previous), temperature=4.0),
        dsr_loss(logits[:, permutation], ranked(previous[:, permutation]), temperature=4.0),
    )


def test_ranked_sorts_each_row_upwards_and_is_detached() -> None:
    logits, _ = logits_pair()
    result = ranked(logits.requires_grad_())
    assert not result.requires_grad
    assert np.array_equal(result.numpy(), np.sort(logits.detach().numpy(), axis=1))


def test_equal_teacher_and_student_cost_nothing() -> None:
    logits, _ = logits_pair()
    assert drg_loss(logits, logits, temperature=4.0).item() == pytest.approx(0, abs=1e-6)
    assert dsr_loss(logits, ranked(logits), temperature=4.0).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", [drg_loss, dsr_loss])
def test_gradient_reaches_the_logits_only(loss: object) -> None:
    logits, teacher = logits_pair()
    logits.requires_grad_()
    teacher.requires_grad_()
    loss(logits, teacher, temperature=4.0).backward()  # type: ignore[operator]
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0
    assert teacher.grad is None


def test_drg_gradient_is_the_closed_form() -> None:
    """d/dz T² KL(p ‖ σ(z/T)) = T (σ(z/T) - p), over the batch size."""
    logits, auxiliary = logits_pair()
    logits.requires_grad_()
    drg_loss(logits, auxiliary, temperature=4.0).backward()
    with torch.no_grad():
        difference = F.softmax(logits / 4, dim=1) - F.softmax(auxiliary / 4, dim=1)
    torch.testing.assert_close(logits.grad, 4 * difference / ROWS, rtol=1e-4, atol=1e-7)


def test_dsr_gradient_follows_the_classes_through_the_sort() -> None:
    logits, previous = logits_pair()
    logits.requires_grad_()
    dsr_loss(logits, ranked(previous), temperature=4.0).backward()
    with torch.no_grad():
        order = logits.argsort(dim=1)
        difference = F.softmax(logits / 4, dim=1).gather(1, order)
        difference -= F.softmax(ranked(previous) / 4, dim=1)
        expected = torch.zeros_like(logits).scatter(1, order, 4 * difference / ROWS)
    torch.testing.assert_close(logits.grad, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("loss", [drg_loss, dsr_loss])
def test_losses_are_float32_under_autocast(loss: object) -> None:
    logits, teacher = logits_pair(spread=20)
    plain = loss(logits, teacher, temperature=4.0)  # type: ignore[operator]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        automatic = loss(logits, teacher, temperature=4.0)  # type: ignore[operator]
    assert automatic.dtype == torch.float32
    assert torch.equal(plain, automatic)


@pytest.mark.parametrize("loss", [drg_loss, dsr_loss])
def test_extreme_logits_stay_finite(loss: object) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    value = loss(logits, torch.tensor([[-1e4, 0.0, 1e4]]), temperature=1.0)  # type: ignore[operator]
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]


def setting_of(student: nn.Module, arch: str, image_size: int, **recipe: object) -> Setting:
    classifier = student.get_submodule(classifier_name(arch))
    assert isinstance(classifier, nn.Linear)
    return Setting(
        recipe=published_recipe("cifar", recipe),
        arch=arch,
        num_classes=classifier.out_features,
        channels=feature_channels(student, arch, image_size),
        classifier=classifier,
        labels=torch.zeros(1, dtype=torch.int64),
        image_shape=(image_size, image_size, 3),
        steps_per_epoch=1,
        scale=torch.ones(()),
        device=torch.device("cpu"),
    )


class WithHead(nn.Module):
    """A student with DRG's head on its second stage: both logits."""

    def __init__(self, arch: str, image_size: int = 32, width: float = 1.0) -> None:
        super().__init__()
        self.student = build_student(arch, num_classes=100, image_size=image_size, width=width)
        self.drg = Drg(setting_of(self.student, arch, image_size))
        (self.stage,) = self.drg.reads
        modules = {self.stage: feature_modules(arch)[self.stage]}
        self.reader = FeatureReader(self.student, modules)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.reader(images)
        return outputs.logits, self.drg.head(outputs.features[self.stage])


@pytest.mark.parametrize("arch", ARCHS)
def test_the_reader_gives_the_students_own_logits(arch: str) -> None:
    both = WithHead(arch).eval()
    assert both.stage == "stage2"
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits, auxiliary = both(images)
        assert torch.equal(logits, both.student(images))
    assert auxiliary.shape == (2, 100)
    assert not torch.equal(auxiliary, logits)
    plain = build_student(arch, num_classes=100, image_size=32)
    assert both.student.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("image_size", [32, 64, 224])
@pytest.mark.parametrize("arch", ARCHS)
def test_the_head_is_light(arch: str, image_size: int) -> None:
    """At most 3 % of the student's multiply-accumulates."""
    with torch.device("meta"):
        both = WithHead(arch, image_size)
    plain = cost_of(both.student, image_size=image_size)
    assert plain.macs < cost_of(both, image_size=image_size).macs <= 1.03 * plain.macs


def test_the_auxiliary_gradient_reaches_only_the_stages_below_the_tap() -> None:
    both = WithHead("mobilenetv2", width=0.25)
    both(torch.randn(4, 3, 32, 32))[1].sum().backward()
    names = [name for name, p in both.student.named_parameters() if p.grad is not None]
    assert names[0].startswith("features.0")
    assert {int(name.split(".")[1]) for name in names} == set(range(7))


def dsr_of(classes: int, **recipe: object) -> Dsr:
    student = build_student("mobilenetv2", num_classes=classes, image_size=16, width=0.25)
    return Dsr(setting_of(student, "mobilenetv2", 16, **recipe))


def learn(dsr: Dsr, logits: Tensor) -> float:
    """DSR's term of a batch with these logits, which it remembers."""
    batch = Batch(logits, torch.zeros(len(logits)), torch.zeros(len(logits)), None)
    terms = dsr.terms(lambda images: Outputs(images, {}), batch)
    dsr.remember(terms.memory, batch)
    return terms.values["dsr"].item()


def test_dsr_compares_with_the_previous_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 4, 3, generator=generator)
    dsr = dsr_of(3, batch_size=4)
    assert learn(dsr, first) == 0  # the first batch has nothing to agree with
    expected = dsr_loss(second, ranked(first), temperature=4.0).item()
    assert learn(dsr, second) == pytest.approx(expected, rel=1e-6)
    assert torch.equal(dsr.get_buffer("ranked"), ranked(second))


def test_dsr_mean_shape_and_its_average() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = torch.randn(3, 4, 5, generator=generator)
    means = [ranked(batch).mean(dim=0, keepdim=True) for batch in batches]
    mean = dsr_of(5, batch_size=4, dsr_teacher="mean")
    average = dsr_of(5, batch_size=4, dsr_teacher="ema", dsr_momentum=0.6)
    for batch in batches:
        learn(mean, batch)
        learn(average, batch)
    assert torch.equal(mean.get_buffer("ranked"), means[2])
    # Even averages until 1/n falls below 1 - momentum: 1, 1/2, then 0.4.
    expected = 0.6 * (means[0] + means[1]) / 2 + 0.4 * means[2]
    torch.testing.assert_close(average.get_buffer("ranked"), expected)


def test_only_a_shape_of_all_rows_is_shared_by_the_processes() -> None:
    shared = {kind: dsr_of(3, dsr_teacher=kind).averaged_memory for kind in ("previous", "mean")}
    assert shared == {"previous": (), "mean": ("ranked",)}
