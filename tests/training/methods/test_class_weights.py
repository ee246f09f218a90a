"""Class weights reach the cross-entropies of every method, and nothing else."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from numpy.typing import NDArray
from torch.nn import functional as F

from runtime.base.errors import UserError
from training import finish
from training.config.method_registry import method_names
from training.config.plan import Plan
from training.config.recipe import recipe_from_values
from training.data import Dataset
from training.engine import build
from training.engine.build import build_batches, build_learner
from training.engine.interruption import InterruptedRunError, StopRequest
from training.engine.process_group import ProcessGroup
from training.engine.trainer import Trainer
from training.methods.method import cross_entropy
from training.records.checkpoint import Checkpoint
from training.records.journal import Progress

CPU = torch.device("cpu")
MakePlan = Callable[..., Plan]
LISTS = [("ce", "drg", "dsr"), *((name,) for name in method_names("whole"))]
# The terms that are cross-entropies with the labels; all others compare outputs with outputs.
ENTROPIES = {"cross_entropy", "auxiliary_cross_entropy", "branches", "progressive", "weak"}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_the_weighted_loss_is_its_formula(soft: bool, smoothing: float) -> None:
    """And torch's for probabilities, whose mean divides by the images, not by their weights."""
    generator = np.random.default_rng(0)
    logits = generator.normal(scale=2, size=(6, 4))
    weights = np.array([0.2, 3.0, 1.0, 0.5])
    targets = generator.dirichlet(np.ones(4), 6) if soft else np.eye(4)[[0, 1, 1, 3, 2, 0]]
    smooth = (1 - smoothing) * targets + smoothing / 4
    log_q = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -(weights * smooth * log_q).sum(axis=1).mean()
    given = torch.from_numpy(targets if soft else targets.argmax(axis=1))
    own = cross_entropy(
        torch.from_numpy(logits).float(),
        given.float() if soft else given,
        label_smoothing=smoothing,
        weights=torch.from_numpy(weights).float(),
    )
    assert own.item() == pytest.approx(expected, rel=1e-5)
    theirs = F.cross_entropy(
        torch.from_numpy(logits),
        torch.from_numpy(targets),
        weight=torch.from_numpy(weights),
        label_smoothing=smoothing,
    )
    assert own.item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("methods", LISTS, ids="+".join)
def test_doubled_weights_double_the_cross_entropies_alone(
    tiny_data: Dataset,
    make_plan: MakePlan,
    methods: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the first step, whose weights are still the same."""

    def first_terms(**recipe: object) -> dict[str, float]:
        plan = replace(make_plan("ce", arch="shufflenetv2", **recipe), methods=methods)
        learner = build_learner(plan, tiny_data, steps_per_epoch=4, device=CPU)
        batches = build_batches(plan, tiny_data, np.arange(48), device=CPU)
        learner.step(next(batches.epoch(0)), learning_rate=0.02, scale=1.0)
        return dict(zip(learner.log.names, learner.log.take(ProcessGroup())[0], strict=True))

    plain = first_terms()
    monkeypatch.setattr(
        build, "weights_of_classes", lambda *_, num_classes: np.full(num_classes, 2, np.float32)
    )
    doubled = first_terms(class_weights="balanced")
    assert ENTROPIES & plain.keys()
    for name, value in plain.items():
        factor = 2 if name in ENTROPIES else 1
        assert doubled[name] == pytest.approx(factor * value, rel=1e-5, abs=1e-7), name


def test_weights_are_of_the_images_that_are_trained_on(
    tiny_data: Dataset, make_plan: MakePlan
) -> None:
    plan = make_plan("drg", class_weights="balanced", class_imbalance=4, batch_size=4)
    trainer = Trainer(plan, tiny_data, device=CPU)
    labels = tiny_data.train_labels[trainer.train_rows]
    assert np.bincount(labels).tolist() == [12, 3, 12]
    for method in trainer.learner.methods.values():
        weights = method.setting.class_weights.numpy()
        np.testing.assert_allclose(weights, [27 / 36, 27 / 9, 27 / 36], rtol=1e-6)
    plain = Trainer(make_plan("ce"), tiny_data, device=CPU)
    assert next(iter(plain.learner.methods.values())).setting.class_weights is None


@pytest.mark.parametrize("keys", [{"class_weights": "sqrt"}, {"balanced_sampling": True}])
def test_a_run_for_rare_classes_resumes_bit_equal(
    tiny_data: Dataset,
    make_plan: MakePlan,
    tmp_path: Path,
    keys: dict[str, object],
    assert_equal_trees: Callable[[object, object], None],
) -> None:
    plan = make_plan("drg", arch="shufflenetv2", class_imbalance=4, **keys)

    def train(*, stop: bool, former: Checkpoint | None = None) -> Checkpoint:
        trainer, left = Trainer(plan, tiny_data, device=CPU), []
        if former is not None:
            trainer.restore(former)
        request = StopRequest()
        request.requested = stop
        try:
            trainer.train(tmp_path, left.append, Progress(epochs=2, quiet=True), request)
        except InterruptedRunError:
            assert stop
        return left[-1]

    undisturbed = train(stop=False)
    resumed = train(stop=False, former=train(stop=True))
    assert_equal_trees(vars(resumed), vars(undisturbed))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"class_weights": "inverse"}, "received 'inverse', expected one of none, balanced, sqrt"),
        ({"class_weights": {"cat": 2.0}}, "expected one of none, balanced, sqrt"),
        ({"class_weights": "sqrt", "balanced_sampling": True}, "choose one of them"),
        ({"balanced_sampling": "often"}, "balanced_sampling: received 'often'"),
        ({"class_imbalance": 0.5}, "class_imbalance: received 0.5"),
    ],
)
def test_a_mistake_in_the_keys_is_one_line(keys: dict[str, object], expected: str) -> None:
    values = {"epochs": 1, "batch_size": 8, "optimizer": "sgd", "learning_rate": 0.1, **keys}
    with pytest.raises(UserError, match=expected) as info:
        recipe_from_values(values, source="test")
    assert "\n" not in str(info.value)


def test_a_result_states_the_recall_of_the_thinned_classes(
    tiny_data: Dataset, make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "_plot", lambda *_: None)
    monkeypatch.setattr(finish, "_report", lambda *_, **__: None)

    def answers(trainer: Trainer) -> NDArray[np.float32]:
        """All but two images of class 1 are right, and one of class 0 is wrong."""
        logits = np.eye(3, dtype=np.float32)[tiny_data.test_labels]
        for wrong in (1, 4, 0):
            logits[wrong] = (0, 0, 1)
        return logits

    monkeypatch.setattr(Trainer, "test_logits", answers)
    for imbalance, expected in ((4, 5 / 7), (1, None)):
        plan = make_plan("ce", class_imbalance=imbalance, epochs=1)
        trainer = Trainer(plan, tiny_data, device=CPU)
        trainer.train(tmp_path, lambda _: None, Progress(epochs=1, quiet=True), StopRequest())
        result = finish.finish_run(trainer, tmp_path, lambda _: None, command="")
        assert result is not None
        assert result.get("rare_recall") == pytest.approx(expected)
