"""What holds for every method: it trains, resumes, composes, compiles and leaves the student."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch import nn
from torchvision import models

from runtime.base.errors import UserError
from training.config.method_registry import (
    METHOD_REGISTRY,
    MethodEntry,
    chosen_methods,
    method_names,
    terms_of_word,
    terms_word,
)
from training.config.options import Options, option_parser
from training.config.plan import Plan
from training.config.recipe import PEER_NAMES, load_recipe
from training.data import Dataset
from training.data.batches import Batch
from training.engine.build import build_batches, build_learner
from training.engine.interruption import InterruptedRunError, StopRequest
from training.engine.learner import Learner
from training.engine.process_group import ProcessGroup
from training.engine.step import Step
from training.engine.trainer import Trainer
from training.methods.method import Method, Setting, Student, Terms, method_class, softened_kl
from training.records.checkpoint import Checkpoint
from training.records.journal import Progress
from training.studies.study_methods import METHODS
from training.train import _plan

CPU = torch.device("cpu")
MakePlan = Callable[..., Plan]
# All that a run can be: the terms on the base in each combination, and every whole method.
LISTS = [
    ("ce",),
    ("ce", "drg"),
    ("ce", "dsr"),
    ("ce", "drg", "dsr"),
    *((name,) for name in method_names("whole")),
]


def plan_of(make_plan: MakePlan, methods: tuple[str, ...], **recipe: object) -> Plan:
    return replace(make_plan("ce", arch="shufflenetv2", **recipe), methods=methods)


def steps_of(learner: Learner, plan: Plan, data: Dataset, *, steps: int = 4) -> np.ndarray:
    """The terms (steps, terms) of the first steps."""
    batches = build_batches(plan, data, np.arange(len(data.train_labels)), device=CPU)
    for _, batch in zip(range(steps), batches.epoch(0), strict=False):
        learner.step(batch, learning_rate=0.02, scale=1.0)
    return learner.log.take(ProcessGroup())


def test_the_registry_has_one_line_for_each_method() -> None:
    for name in METHOD_REGISTRY:
        kind = method_class(name)
        assert issubclass(kind, Method)
        assert kind.term_names
    assert method_names("base") == ("ce",)
    assert method_names("term") == ("drg", "dsr")
    assert method_names("whole") == PEER_NAMES
    assert set(PEER_NAMES) < set(METHODS)


def test_methods_are_chosen_by_terms_or_by_a_peer() -> None:
    assert chosen_methods([]) == ("ce",)
    assert chosen_methods(["dsr", "drg"]) == ("ce", "drg", "dsr")
    assert chosen_methods([], peer="dlb") == ("dlb",)
    with pytest.raises(UserError, match="peer dlb is another method; leave out --drg and --dsr"):
        chosen_methods(["drg", "dsr"], peer="dlb")
    for word in ("ce", "drg", "dsr", "drg+dsr"):
        assert terms_word(chosen_methods(terms_of_word(word))) == word
    assert terms_word(("dlb",)) == "ce"


@pytest.mark.parametrize("methods", LISTS, ids="+".join)
def test_every_method_trains_resumes_and_leaves_a_plain_student(
    tiny_data: Dataset,
    make_plan: MakePlan,
    tmp_path: Path,
    methods: tuple[str, ...],
    assert_equal_trees: Callable[[object, object], None],
) -> None:
    plan = plan_of(make_plan, methods)

    def train(stop: StopRequest, former: Checkpoint | None = None) -> tuple[Trainer, Checkpoint]:
        trainer = Trainer(plan, tiny_data, device=CPU)
        if former is not None:
            trainer.restore(former)
        left: list[Checkpoint] = []
        try:
            trainer.train(tmp_path, left.append, Progress(epochs=2, quiet=True), stop)
        except InterruptedRunError:
            assert stop.requested
        return trainer, left[-1]

    trainer, undisturbed = train(StopRequest())
    stop = StopRequest()
    stop.requested = True
    _, first = train(stop)
    _, resumed = train(StopRequest(), first)
    fields = ("student", "auxiliary", "training", "epoch")
    assert_equal_trees(
        *({name: getattr(left, name) for name in fields} for left in (resumed, undisturbed))
    )
    plain = Trainer(plan_of(make_plan, ("ce",)), tiny_data, device=CPU)
    assert undisturbed.student.keys() == plain.learner.networks().student.keys()
    line = trainer.history[-1]
    names = [term for name in methods for term in method_class(name).term_names]
    assert line["loss"] == pytest.approx(sum(line[name] for name in names))


@pytest.fixture
def shallow_student(monkeypatch: pytest.MonkeyPatch) -> None:
    """ShuffleNetV2 with one unit a stage, because tracing all sixteen takes most of a test.

    The whole student is traced by test_captured_step.py and test_teacher.py.
    """
    shallow = partial(models.ShuffleNetV2, [1, 1, 1], [24, 48, 96, 192, 1024])
    monkeypatch.setattr(models, "shufflenet_v2_x0_5", lambda *, weights, **key: shallow(**key))


@pytest.mark.usefixtures("shallow_student")
@pytest.mark.parametrize("methods", LISTS, ids="+".join)
def test_a_compiler_sees_every_method_as_one_whole_graph(
    tiny_data: Dataset, make_plan: MakePlan, methods: tuple[str, ...]
) -> None:
    """Forward and backward as torch.compile gets them on a GPU, without making kernels."""
    torch._dynamo.reset()
    curves = []
    for compiled in (False, True):
        plan = plan_of(make_plan, methods)
        learner = build_learner(plan, tiny_data, steps_per_epoch=4, device=CPU)
        assert isinstance(learner.step, Step)
        if compiled:
            learner.step.loss = torch.compile(
                learner.step.loss, backend="aot_eager", fullgraph=True, dynamic=False
            )
        curves.append(steps_of(learner, plan, tiny_data))
    assert np.isfinite(curves[0]).all()
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("methods", LISTS, ids="+".join)
def test_a_method_branches_on_no_value(
    tiny_data: Dataset,
    make_plan: MakePlan,
    methods: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A captured step replays what it launched: a number read back would never change again."""
    plan = plan_of(make_plan, methods)
    learner = build_learner(plan, tiny_data, steps_per_epoch=4, device=CPU)
    assert isinstance(learner.step, Step)

    def read(_tensor: torch.Tensor, *_: object) -> None:
        raise AssertionError("a value was read back from the device")

    batches = build_batches(plan, tiny_data, np.arange(48), device=CPU)
    batch = next(batches.epoch(0))
    learner.step.set_rates(learning_rate=0.02, scale=1.0)
    augmented, partners = learner.step._augmented(batch)
    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy"):
            patch.setattr(torch.Tensor, name, read)
        given = learner.step.loss(augmented, partners)
        for name, method in learner.methods.items():
            assert isinstance(method, Method)
            method.remember(given[name].memory, batch)


class Teacher(Method):
    """T² KL( σ(teacher / T) ‖ σ(z / T) ) with a fixed network as the teacher."""

    term_names = ("teacher",)

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.network = nn.Linear(3, setting.num_classes).requires_grad_(requires_grad=False)

    def terms(self, student: Student, batch: Batch) -> Terms:
        with torch.no_grad():
            taught = self.network(batch.images.mean(dim=(2, 3)))
        logits = student(batch.images).logits
        return Terms({"teacher": softened_kl(taught, logits, temperature=4.0)})


def test_methods_are_added(
    tiny_data: Dataset, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each term is what it is alone, from one pass of the student, in any company."""
    monkeypatch.setitem(METHOD_REGISTRY, "teacher", MethodEntry("none:Teacher", "term"))
    own = method_class
    for module in ("training.engine.build", "training.methods.method"):
        monkeypatch.setattr(
            f"{module}.method_class", lambda name: Teacher if name == "teacher" else own(name)
        )
    first = {}
    lists = [("ce",), ("ce", "drg"), ("ce", "dsr"), ("ce", "teacher"), ("cs-kd",)]
    for methods in [*lists, ("ce", "drg", "dsr", "teacher"), ("cs-kd", "drg", "teacher")]:
        plan = plan_of(make_plan, methods)
        learner = build_learner(plan, tiny_data, steps_per_epoch=4, device=CPU)
        passes = []
        learner.student.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        rows = steps_of(learner, plan, tiny_data, steps=1)
        assert len(passes) == (2 if "cs-kd" in methods else 1)
        first[methods] = dict(zip(learner.log.names, rows[0], strict=True))
    together = first["ce", "drg", "dsr", "teacher"]
    assert tuple(together) == (
        "cross_entropy", "auxiliary_cross_entropy", "drg", "dsr", "teacher",
    )  # fmt: skip
    alone = first["ce",] | first["ce", "drg"] | first["ce", "dsr"]
    assert {name: together[name] for name in alone} == alone
    assert together["teacher"] > 0
    beside = first["cs-kd", "drg", "teacher"]
    assert beside["class_wise"] == first["cs-kd",]["class_wise"]
    assert beside["cross_entropy"] == first["cs-kd",]["cross_entropy"]


def test_two_methods_do_not_name_a_term_alike(tiny_data: Dataset, make_plan: MakePlan) -> None:
    plan = plan_of(make_plan, ("ce", "byot"))
    with pytest.raises(AssertionError, match="name a term alike"):
        build_learner(plan, tiny_data, steps_per_epoch=1, device=CPU)


def test_a_memory_of_images_is_not_split_between_processes(
    tiny_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next process that sees an image does not know what this one said of it."""
    monkeypatch.setattr(ProcessGroup, "share", lambda _group, value: value)  # nobody else is there
    options = Options(**vars(option_parser().parse_args(["--arch", "mobilenetv2"])))
    recipe, group = load_recipe("cifar"), ProcessGroup(rank=0, world_size=2)
    assert _plan(options, replace(recipe, peer="dlb"), tiny_data, group).processes == 2
    with pytest.raises(UserError, match="which 2 processes do not share; train with one"):
        _plan(options, replace(recipe, peer="ps-kd"), tiny_data, group)


def test_a_peer_takes_no_mixing(make_plan: MakePlan) -> None:
    with pytest.raises(UserError, match="peer dlb needs label_smoothing, mixup and cutmix to be 0"):
        make_plan("ce", peer="dlb", mixup=0.2)


def test_an_unknown_peer_is_one_line(make_plan: MakePlan) -> None:
    with pytest.raises(UserError, match="peer: received 'skd', expected one of none, byot, cs-kd"):
        make_plan("ce", peer="skd")
