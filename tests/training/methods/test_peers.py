"""The methods beside DRG and DSR: their formulas against independent computations."""

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.base.errors import UserError
from training.config.recipe import load_recipe
from training.data.batches import Batch
from training.methods.byot import Byot, hint_loss
from training.methods.cs_kd import CsKd
from training.methods.ddgsd import Ddgsd
from training.methods.dlb import Dlb
from training.methods.drg_dsr import Dsr
from training.methods.method import (
    BEFORE_LAST,
    LAST,
    STAGES,
    Method,
    Outputs,
    Setting,
    without_target,
)
from training.methods.ps_kd import PsKd
from training.methods.tf_kd import TfKd, Weights, virtual_teacher_loss
from training.methods.uskd import Uskd, target_of, zipf_of_ranking
from training.methods.zipf_ls import ZipfLs, zipf_of_votes
from training.networks.students import build_student, feature_channels

COUNT, CLASSES, CHANNELS, IMAGES = 6, 5, 4, 20


def softmax(values: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    exponentials = np.exp(values / temperature)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def kl(teacher: np.ndarray, student: np.ndarray, temperature: float) -> float:
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    return float(temperature**2 * (p * np.log(p / q)).sum() / len(p))


def entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(softmax(logits)[np.arange(len(labels)), labels]).mean())


class FakeStudent:
    """Logits and features that are a fixed function of each image's mean pixel."""

    def __init__(self) -> None:
        self.calls = 0
        generator = torch.Generator().manual_seed(1)
        self.directions = torch.randn(1, CLASSES, generator=generator)
        self.maps = {
            key: torch.randn(1, CHANNELS, 2, 2, generator=generator)
            for key in (*STAGES, BEFORE_LAST, LAST)
        }

    def __call__(self, pixels: Tensor) -> Outputs:
        self.calls += 1
        means = pixels.mean(dim=(1, 2, 3))[:, None]
        features = {key: means[:, :, None, None] * maps for key, maps in self.maps.items()}
        return Outputs(means * self.directions, features)

    def logits(self, pixels: Tensor) -> np.ndarray:
        return self(pixels).logits.double().numpy()


@pytest.fixture
def setting() -> Setting:
    torch.manual_seed(0)
    return Setting(
        recipe=load_recipe("cifar", {"batch_size": COUNT, "epochs": 4}),
        arch="resnet18",
        num_classes=CLASSES,
        channels=dict.fromkeys((*STAGES, BEFORE_LAST, LAST), CHANNELS),
        classifier=nn.Linear(CHANNELS, CLASSES),
        labels=torch.arange(IMAGES) % CLASSES,
        image_shape=(2, 2, 3),
        steps_per_epoch=2,
        scale=torch.ones(()),
        device=torch.device("cpu"),
    )


def stored_batch(seed: int = 0, rows: list[int] | None = None) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (COUNT, 2, 2, 3), dtype=torch.uint8, generator=generator)
    partners = torch.randint(0, 256, (COUNT, 2, 2, 3), dtype=torch.uint8, generator=generator)
    chosen = torch.tensor(rows or list(range(COUNT)))
    return Batch(images, chosen % CLASSES, chosen, partners)


def augment(stored: Tensor, *, view: int) -> Tensor:
    return stored.permute(0, 3, 1, 2).float() / (100 + 20 * view) - 1


def step(method: Method, student: FakeStudent, stored: Batch) -> tuple[dict[str, float], Batch]:
    """The terms of an augmented batch, which it returns; the method remembers what it wants."""
    wanted = method.partner_images(stored)
    partners = None if wanted is None else augment(wanted, view=1)
    batch = stored._replace(images=augment(stored.images, view=0), partners=partners)
    terms = method.terms(student, batch)
    assert tuple(terms.values) == method.term_names
    assert not any(value.requires_grad for value in terms.memory.values())
    method.remember(terms.memory, stored)
    return {name: term.item() for name, term in terms.values.items()}, batch


@pytest.mark.parametrize("classes", [10, 100, 1000])
@pytest.mark.parametrize(
    ("weights", "smoothing", "scale"),
    [
        (Weights(0.1, 20.0, 100.0), 0.1, 1.0),  # ResNet18
        (Weights(0.95, 40.0, 1.0), 0.1597, 0.0595),  # MobileNetV2
    ],
)
def test_tf_kd_is_label_smoothing_at_another_scale(
    weights: Weights, smoothing: float, scale: float, classes: int
) -> None:
    """The equivalence that was found for 100 classes, by the gradients; about the same for all."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (8,), generator=generator)
    logits = torch.randn(8, classes, generator=generator, requires_grad=True)
    loss = (1 - weights.alpha) * F.cross_entropy(logits, labels)
    loss = loss + weights.alpha * virtual_teacher_loss(logits, labels, weights)
    (gradient,) = torch.autograd.grad(loss, logits)
    smoothed = scale * F.cross_entropy(logits, labels, label_smoothing=smoothing)
    (expected,) = torch.autograd.grad(smoothed, logits)
    assert (gradient - expected).norm() < 5e-3 * expected.norm()


def test_tf_kd_by_numpy(setting: Setting) -> None:
    student = FakeStudent()
    found, batch = step(TfKd(setting), student, stored_batch())
    logits, labels = student.logits(batch.images), batch.labels.numpy()
    given = np.full((COUNT, CLASSES), 0.01 / 4)
    given[np.arange(COUNT), labels] = 0.99
    p, q = softmax(given, 20.0), softmax(logits)
    assert found["virtual_teacher"] == pytest.approx(
        0.1 * 100 * (p * np.log(p / q)).sum() / (COUNT * 100), rel=1e-4
    )
    assert found["cross_entropy"] == pytest.approx(0.9 * entropy(logits, labels), rel=1e-5)


def test_cs_kd_by_numpy(setting: Setting) -> None:
    student = FakeStudent()
    found, batch = step(CsKd(setting), student, stored_batch())
    assert batch.partners is not None
    logits, partner = student.logits(batch.images), student.logits(batch.partners)
    assert found["class_wise"] == pytest.approx(kl(partner, logits, 4.0), rel=1e-4)
    assert found["cross_entropy"] == pytest.approx(entropy(logits, batch.labels.numpy()), rel=1e-5)


def test_ps_kd_mixes_in_what_it_said_an_epoch_ago(setting: Setting) -> None:
    student, peer = FakeStudent(), PsKd(setting)
    # The same images twice, in two epochs of two steps. In epoch 1 the bank holds the labels, so
    # the loss is plain cross-entropy.
    found, first = step(peer, student, stored_batch(1))
    labels, logits = first.labels.numpy(), student.logits(first.images)
    assert found["progressive"] == pytest.approx(entropy(logits, labels), rel=1e-5)
    step(peer, student, stored_batch(3, rows=list(range(6, 12))))
    found, second = step(peer, student, stored_batch(2))
    alpha = 0.8 * 2 / 4
    target = (1 - alpha) * np.eye(CLASSES)[labels] + alpha * softmax(logits)
    expected = -(target * np.log(softmax(student.logits(second.images)))).sum(axis=1).mean()
    assert found["progressive"] == pytest.approx(expected, rel=1e-5)


def test_ps_kd_begins_an_epoch_with_its_first_step_also_where_quotients_are_rounded(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA divides by a number as it multiplies by 1 over it: 41 steps of 41 are no whole epoch."""
    divided = Tensor.__truediv__

    def as_on_cuda(self: Tensor, other: Any) -> Tensor:
        if isinstance(other, Tensor):
            return divided(self, other)
        return self * float(np.float32(1) / np.float32(other))

    student, peer = FakeStudent(), PsKd(replace(setting, steps_per_epoch=41))
    peer.get_buffer("steps").fill_(41)
    peer.get_buffer("bank").fill_(1 / CLASSES)
    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "__truediv__", as_on_cuda)
        assert torch.floor(torch.tensor(41.0) / 41) == 0
        found, batch = step(peer, student, stored_batch())
    alpha = 0.8 * 2 / 4
    target = (1 - alpha) * np.eye(CLASSES)[batch.labels.numpy()] + alpha / CLASSES
    expected = -(target * np.log(softmax(student.logits(batch.images)))).sum(axis=1).mean()
    assert found["progressive"] == pytest.approx(expected, rel=1e-5)


def test_a_method_that_would_teach_nothing_of_two_classes_is_refused(setting: Setting) -> None:
    with pytest.raises(UserError, match=r"zipf-ls ranks .* expected 3 classes or more"):
        ZipfLs(replace(setting, num_classes=2))
    for shape, fewest in (("below-first", 3), ("standardised-below-first", 4), ("paper", 2)):
        recipe = msgspec.structs.replace(setting.recipe, dsr_shape=shape)
        Dsr(replace(setting, recipe=recipe, num_classes=fewest))
        if shape != "paper":
            with pytest.raises(UserError, match=f"dsr_shape {shape}: .* expected {fewest} classes"):
                Dsr(replace(setting, recipe=recipe, num_classes=fewest - 1))


def test_dlb_learns_the_previous_batch_again(setting: Setting) -> None:
    student, peer = FakeStudent(), Dlb(setting)
    found, first = step(peer, student, stored_batch(1))
    former = student.logits(first.images)
    assert found["last_batch"] == 0
    assert found["cross_entropy"] == pytest.approx(entropy(former, first.labels.numpy()), rel=1e-5)
    found, second = step(peer, student, stored_batch(2, rows=list(range(6, 12))))
    now = student.logits(augment(stored_batch(1).images, view=1))
    assert found["last_batch"] == pytest.approx(kl(former, now, 3.0), rel=1e-4)
    both = [entropy(now, first.labels.numpy())]
    both.append(entropy(student.logits(second.images), second.labels.numpy()))
    assert found["cross_entropy"] == pytest.approx(np.mean(both), rel=1e-5)


def test_the_first_batch_of_dlb_is_normalised_by_itself(setting: Setting) -> None:
    """As by the source, whose first step is plain cross-entropy. The memory is black then."""
    norm, alone = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    directions = torch.randn(3, CLASSES, generator=torch.Generator().manual_seed(1))

    def student(pixels: Tensor) -> Outputs:
        return Outputs(norm(pixels).amax(dim=(2, 3)) @ directions, {})

    stored, peer = stored_batch(1), Dlb(setting)
    partners = augment(setting.labels.new_zeros(COUNT, 2, 2, 3), view=1)
    batch = stored._replace(images=augment(stored.images, view=0), partners=partners)
    terms = peer.terms(student, batch)
    expected = alone(batch.images).amax(dim=(2, 3)) @ directions
    assert torch.allclose(norm.running_mean, alone.running_mean)  # type: ignore[arg-type]
    # torch corrects the variance of n values by n / (n - 1), of 24 here and of 48.
    corrected = 0.9 + (alone.running_var - 0.9) * (23 / 24) * (48 / 47)  # type: ignore[operator]
    assert torch.allclose(norm.running_var, corrected)  # type: ignore[arg-type]
    found = terms.values["cross_entropy"].item()
    logits = expected.detach().double().numpy()
    assert found == pytest.approx(entropy(logits, stored.labels.numpy()), rel=1e-5)
    assert terms.values["last_batch"].item() == 0


def test_ddgsd_by_numpy(setting: Setting) -> None:
    student = FakeStudent()
    found, batch = step(Ddgsd(setting), student, stored_batch())
    assert batch.partners is not None
    views = (batch.images, batch.partners)
    assert torch.equal(batch.partners, augment(stored_batch().images, view=1))
    a, b = (student.logits(view) for view in views)
    assert found["mutual"] == pytest.approx(kl(b, a, 3.0) + kl(a, b, 3.0), rel=1e-4)
    labels = batch.labels.numpy()
    assert found["cross_entropy"] == pytest.approx(
        entropy(a, labels) + entropy(b, labels), rel=1e-5
    )
    means = [student(view).features[LAST].mean(dim=(0, 2, 3)).numpy() for view in views]
    expected = 5e-4 * ((means[0] - means[1]) ** 2).sum()
    assert found["discrepancy"] == pytest.approx(expected, rel=1e-4)


def test_zipf_of_votes_by_hand() -> None:
    """Votes 7 (the label), 4, 4, 1, 0: the others rank 2, 2, 4, 5."""
    target = zipf_of_votes(torch.tensor([[4, 7, 1, 4, 0]]), torch.tensor([1]))
    weights = np.array([1 / 2, 1 / 4, 1 / 2, 1 / 5])
    np.testing.assert_allclose(target[0], weights / weights.sum(), rtol=1e-6)


def test_zipf_ls_by_numpy(setting: Setting) -> None:
    student, peer = FakeStudent(), ZipfLs(setting)
    found, batch = step(peer, student, stored_batch())
    seen = student(batch.images)
    votes = peer._votes(seen.features[LAST])
    assert votes.sum(dim=1).tolist() == [16] * COUNT  # 2 x 2 positions, doubled
    p = zipf_of_votes(votes, batch.labels).double().numpy()
    q = softmax(without_target(seen.logits, batch.labels).double().numpy())
    expected = 0.1 * (p * np.log(p / q)).sum(axis=1).mean()
    assert found["zipf"] == pytest.approx(expected, rel=1e-4)


def test_zipf_ls_votes_are_not_rounded_by_autocast(setting: Setting) -> None:
    """bf16 has eight bits: classes that differ by less would tie, and the first take the vote."""
    peer, last = ZipfLs(setting), CLASSES - 1
    nn.init.zeros_(setting.classifier.weight)
    with torch.no_grad():
        setting.classifier.bias.copy_(1 + 1e-4 * torch.arange(CLASSES))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        votes = peer._votes(torch.randn(COUNT, CHANNELS, 2, 2))
    assert votes[:, last].tolist() == [16] * COUNT


@pytest.mark.parametrize(
    ("arch", "channels"), [("mobilenetv2", 320), ("shufflenetv2", 464), ("resnet18", 256)]
)
def test_uskd_reads_the_map_that_the_authors_configurations_name(arch: str, channels: int) -> None:
    student = build_student(arch, num_classes=10, image_size=32)
    assert feature_channels(student, arch, 32)[BEFORE_LAST] == channels


def test_uskd_pieces_by_hand() -> None:
    np.testing.assert_allclose(target_of(torch.tensor([0.2, 0.4])), [0.94, 1.06], rtol=1e-6)
    strong = torch.tensor([[0.1, 0.5, 0.3, 0.1]])
    weak = torch.tensor([[0.3, 0.4, 0.1, 0.2]])
    # Scores 0.1/0.5 + 0.3/0.6 = 0.7, (the label) 1.67, 0.77, 0.53: ranks 3, 1, 2, 4.
    weights = np.array([1 / 3, 1 / 2, 1 / 4])
    zipf = zipf_of_ranking(strong, weak, torch.tensor([1]))
    np.testing.assert_allclose(zipf[0], weights / weights.sum(), rtol=1e-6)


def test_uskd_by_numpy(setting: Setting) -> None:
    student, peer = FakeStudent(), Uskd(setting)
    found, batch = step(peer, student, stored_batch())
    labels, rows = batch.labels.numpy(), np.arange(COUNT)
    logits = student.logits(batch.images)
    s = softmax(logits)
    own = s[rows, labels]
    target = own**2 + 1 - (own**2).mean()
    assert found["target"] == pytest.approx(-0.1 * (target * np.log(own)).mean(), rel=1e-4)
    pooled = student(batch.images).features[BEFORE_LAST].mean(dim=(2, 3))
    weak = peer.weak(pooled).detach()
    w = torch.from_numpy(softmax(weak.double().numpy()))
    zipf = zipf_of_ranking(torch.from_numpy(s), w, batch.labels).numpy()
    others = softmax(without_target(torch.from_numpy(logits), batch.labels).numpy())
    expected = -0.1 * (zipf * np.log(others)).sum(axis=1).mean()
    assert found["non_target"] == pytest.approx(expected, rel=1e-4)
    expected = 0.1 * F.cross_entropy(weak, batch.labels, label_smoothing=0.1).item()
    assert found["weak"] == pytest.approx(expected, rel=1e-5)


def test_the_hint_counts_where_either_is_positive() -> None:
    vectors = torch.tensor([[1.0, -1.0, -2.0]], requires_grad=True)
    deepest = torch.tensor([[3.0, 2.0, 0.0]], requires_grad=True)
    loss = hint_loss(vectors, deepest)
    assert loss.item() == 4 + 9
    loss.backward()
    assert deepest.grad is None


def test_byot_by_numpy(setting: Setting) -> None:
    student, peer = FakeStudent(), Byot(setting).eval()
    found, batch = step(peer, student, stored_batch())
    seen, labels = student(batch.images), batch.labels.numpy()
    deepest = torch.relu(seen.features[LAST]).mean(dim=(2, 3))
    logits = seen.logits.double().numpy()
    branches, divergence, hint = 0.0, 0.0, 0.0
    for stage in STAGES[:3]:
        vectors, shallow = peer.branches[stage](seen.features[stage])
        values = shallow.detach().double().numpy()
        branches += entropy(values, labels)
        divergence += kl(logits, values, 3.0)
        hint += hint_loss(vectors, deepest).item()
    assert found["cross_entropy"] == pytest.approx(0.9 * entropy(logits, labels), rel=1e-5)
    assert found["branches"] == pytest.approx(0.9 * branches, rel=1e-5)
    assert found["distillation"] == pytest.approx(0.1 * divergence, rel=1e-3)
    assert found["hint"] == pytest.approx(1e-6 * hint, rel=1e-5)
