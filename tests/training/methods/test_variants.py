"""DRG with several heads, DKS-like, and DSR's places, fade and mixed rows: their formulas."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from runtime.base.errors import UserError
from training.config.recipe import load_recipe, recipe_from_values
from training.data.batches import Batch
from training.methods.dks_like import DksLike
from training.methods.drg_dsr import Drg, Dsr
from training.methods.method import FeatureReader, Outputs, mean_answer
from training.methods.rank_shapes import RANK_SHAPES
from training.networks.students import build_student, feature_modules

OWN = runpy.run_path(str(Path(__file__).with_name("test_drg_dsr.py")))
dsr_of, numpy_kl, setting_of = (OWN[name] for name in ("dsr_of", "numpy_kl", "setting_of"))
ARCH, SIZE, CLASSES, ROWS = "mobilenetv2", 16, 10, 6


def parts(kind: type[Drg], **recipe: object) -> tuple[Drg, FeatureReader]:
    torch.manual_seed(0)
    student = build_student(ARCH, num_classes=CLASSES, image_size=SIZE, width=0.25)
    method = kind(setting_of(student, ARCH, SIZE, **recipe))
    modules = feature_modules(ARCH)
    return method, FeatureReader(student, {stage: modules[stage] for stage in method.reads})


def batch_of(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(ROWS, 3, SIZE, SIZE, generator=generator)
    labels = torch.randint(CLASSES, (ROWS,), generator=generator)
    return Batch(images, labels, torch.arange(ROWS), None)


def test_several_heads_teach_by_the_mean_of_their_softened_answers() -> None:
    drg, reader = parts(Drg, taps=[2, 3], drg_weight=0.5, label_smoothing=0.1)
    assert drg.reads == ("stage2", "stage3")
    kept: list[Outputs] = []

    def student(images: Tensor) -> Outputs:
        kept.append(reader(images))
        return kept[-1]

    batch = batch_of()
    drg.eval()  # so that the heads give the same answers twice
    values = drg.terms(student, batch).values
    (outputs,) = kept
    answers = [answer.detach() for answer in drg.answers(outputs)]
    mean = sum(F.softmax(answer.double() / 4, dim=1) for answer in answers) / 2
    logits = outputs.logits.detach().double()
    expected = 0.5 * 16 * (mean * (mean.log() - F.log_softmax(logits / 4, dim=1))).sum(1).mean()
    assert values["drg"].item() == pytest.approx(expected.item(), rel=1e-4)
    entropies = [F.cross_entropy(a, batch.labels, label_smoothing=0.1).item() for a in answers]
    assert values["auxiliary_cross_entropy"].item() == pytest.approx(sum(entropies), rel=1e-5)
    # The gradient of the guidance: T (σ(z / T) - mean) / N, and none for the heads.
    (slope,) = torch.autograd.grad(values["drg"], outputs.logits, retain_graph=True)
    closed = 0.5 * 4 * (F.softmax(logits / 4, dim=1) - mean) / ROWS
    torch.testing.assert_close(slope.double(), closed, rtol=1e-3, atol=1e-6)
    of_heads = torch.autograd.grad(values["drg"], [*drg.parameters()], allow_unused=True)
    assert all(gradient is None for gradient in of_heads)


def test_the_mean_answer_of_one_head_is_its_own() -> None:
    logits = torch.randn(3, 4)
    assert torch.equal(mean_answer([logits], temperature=4.0), logits)
    both = mean_answer([logits, logits], temperature=4.0)
    torch.testing.assert_close(F.softmax(both / 4, dim=1), F.softmax(logits / 4, dim=1))


def test_one_tap_is_the_same_by_both_keys() -> None:
    """Old recipes and checkpoints name `tap`, and their head is called `head`."""
    by_tap, _ = parts(Drg, tap=3)
    by_taps, _ = parts(Drg, taps=[3])
    assert by_tap.reads == by_taps.reads == ("stage3",)
    assert by_tap.state_dict().keys() == by_taps.state_dict().keys()
    assert all(name.startswith("head.") for name in by_tap.state_dict())
    two, _ = parts(Drg, taps=[2, 3])
    assert {name.split(".")[0] for name in two.state_dict()} == {"head", "other_heads"}
    with pytest.raises(UserError, match=r"taps \[2, 2\] must be different stages"):
        load_recipe("cifar", {"taps": [2, 2]})
    with pytest.raises(UserError, match="taps"):
        load_recipe("cifar", {"taps": [5]})


def test_dks_like_teaches_both_ways() -> None:
    dks, reader = parts(DksLike)
    assert dks.reads == ("stage2", "stage3")
    dks.eval()
    batch = batch_of()
    outputs = reader(batch.images)
    values = dks.terms(lambda _: outputs, batch).values
    answers = [answer.detach() for answer in dks.answers(outputs)]
    logits = outputs.logits.detach()
    expected = 0.2 * sum(numpy_kl(logits, answer, 4.0) for answer in answers)
    assert values["back"].item() == pytest.approx(expected, rel=1e-4)
    (slope,) = torch.autograd.grad(values["back"], outputs.logits, allow_unused=True)
    assert slope is None  # the output teaches and does not learn here
    assert values["cross_entropy"].item() == pytest.approx(
        F.cross_entropy(logits, batch.labels).item(), rel=1e-5
    )


def terms_of(dsr: Dsr, logits: Tensor, labels: Tensor | None = None) -> tuple[float, object]:
    labels = torch.zeros(len(logits), dtype=torch.int64) if labels is None else labels
    batch = Batch(logits, labels, torch.zeros(len(logits)), None)
    terms = dsr.terms(lambda images: Outputs(images, {}), batch)
    dsr.remember(terms.memory, batch)
    return terms.values["dsr"].item(), terms.memory


@pytest.mark.parametrize("shape", RANK_SHAPES)
def test_dsr_compares_the_recipes_shape_with_the_previous_batch(shape: str) -> None:
    first, second = torch.randn(2, 4, CLASSES, generator=torch.Generator().manual_seed(0))
    dsr = dsr_of(CLASSES, batch_size=4, dsr_shape=shape, dsr_weight=3.0)
    assert terms_of(dsr, first)[0] == 0
    rank = RANK_SHAPES[shape]
    remembered = rank.remembered(rank.scores(first), tau=0.5)
    if rank.shuffled:
        remembered = remembered[:, dsr.get_buffer("order")]
    losses = rank.divergences(remembered, rank.scores(second), temperature=4.0, tau=0.5)
    assert terms_of(dsr, second)[0] == pytest.approx(3 * losses.mean().item(), rel=1e-4)


def test_a_standardised_teacher_averages_probabilities() -> None:
    batches = torch.randn(3, 4, CLASSES, generator=torch.Generator().manual_seed(0))
    dsr = dsr_of(
        CLASSES,
        batch_size=4,
        dsr_shape="standardised-below-first",
        dsr_teacher="ema",
        dsr_momentum=0.6,
    )
    for batch in batches:
        terms_of(dsr, batch)
    means = []
    for batch in batches.double().numpy():
        ranks = np.sort(batch, axis=1)[:, :-1]
        scores = (ranks - ranks.mean(1, keepdims=True)) / (ranks.std(1, keepdims=True) + 1e-3)
        shapes = np.exp(scores / 0.5)
        means.append((shapes / shapes.sum(1, keepdims=True)).mean(0))
    expected = 0.6 * (means[0] + means[1]) / 2 + 0.4 * means[2]
    np.testing.assert_allclose(dsr.get_buffer("ranked")[0], expected, rtol=1e-4)


def test_a_fading_weight_grows_over_a_tenth_and_goes_in_the_second_half() -> None:
    dsr = dsr_of(CLASSES, batch_size=4, dsr_fade=True, dsr_weight=0.3, epochs=20)  # 20 steps
    plain = dsr_of(CLASSES, batch_size=4, dsr_weight=1.0)
    batches = torch.randn(20, 4, CLASSES, generator=torch.Generator().manual_seed(0))
    weights = [terms_of(dsr, batch)[0] / max(1e-9, terms_of(plain, batch)[0]) for batch in batches]
    progress = np.arange(20) / 20
    expected = 0.3 * np.minimum(1, progress / 0.1) * np.minimum(1, 2 * (1 - progress))
    np.testing.assert_allclose(weights[1:], expected[1:], rtol=1e-4)


def test_on_the_auxiliary_logits_the_trunk_is_left_alone() -> None:
    torch.manual_seed(0)
    student = build_student(ARCH, num_classes=CLASSES, image_size=SIZE, width=0.25)
    setting = setting_of(student, ARCH, SIZE, batch_size=ROWS, dsr_on="auxiliary", taps=[2, 3])
    with pytest.raises(UserError, match="dsr_on auxiliary needs the heads of --drg"):
        Dsr(setting)
    drg = Drg(setting)
    dsr = Dsr(setting)
    assert dsr.reads == drg.reads
    assert not list(dsr.parameters())  # the heads stay DRG's
    modules = feature_modules(ARCH)
    reader = FeatureReader(student, {stage: modules[stage] for stage in drg.reads})
    for seed in (0, 1):
        batch = batch_of(seed)
        terms = dsr.terms(reader, batch)
        dsr.remember(terms.memory, batch)
    terms.values["dsr"].backward()
    assert all(parameter.grad is None for parameter in student.parameters())
    assert all(parameter.grad is not None for parameter in drg.parameters())
    assert dsr.get_buffer("ranked").shape == (2 * ROWS, CLASSES)


def test_mixed_pictures_neither_learn_nor_teach() -> None:
    first, second = torch.randn(2, 4, CLASSES, generator=torch.Generator().manual_seed(0))
    whole = F.one_hot(torch.arange(4), CLASSES).float()
    mixed = 0.6 * whole + 0.4 * whole.roll(1, 0)
    targets = [torch.stack([whole[0], mixed[1], whole[2], whole[3]])]
    targets += [torch.stack([mixed[0], whole[1], whole[2], whole[3]])]
    rank = RANK_SHAPES["paper"]
    losses = rank.divergences(rank.scores(first), rank.scores(second), temperature=4.0, tau=0.5)
    dsr = dsr_of(CLASSES, batch_size=4, cutmix=1.0)
    terms_of(dsr, first, targets[0])
    found, _ = terms_of(dsr, second, targets[1])
    assert found == pytest.approx(losses[2:].mean().item(), rel=1e-4)  # whole in both batches

    mean = dsr_of(CLASSES, batch_size=4, cutmix=1.0, dsr_teacher="mean")
    terms_of(mean, first, targets[0])
    own = torch.sort(first, dim=1)[0][[0, 2, 3]].mean(dim=0)
    torch.testing.assert_close(mean.get_buffer("ranked")[0], own)
    assert terms_of(mean, second, mixed)[0] == 0  # no picture is whole
    torch.testing.assert_close(mean.get_buffer("ranked")[0], own)  # and none teaches


def test_a_recipe_without_the_new_keys_is_the_papers() -> None:
    values = {"epochs": 2, "batch_size": 4, "optimizer": "sgd", "learning_rate": 0.1}
    recipe = recipe_from_values(values, source="of an older version")
    assert (recipe.dsr_shape, recipe.dsr_on, recipe.dsr_fade) == ("paper", "output", False)
    assert (recipe.tap, recipe.taps, recipe.train_share) == (2, (), 1.0)
