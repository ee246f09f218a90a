"""The captured step: the same numbers as the plain one, on a GPU."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from training.config.plan import Plan
from training.data import Dataset
from training.data.batches import Batch, Batches
from training.engine import step
from training.engine.build import build_learner
from training.engine.captured_step import CapturedStep
from training.engine.interruption import InterruptedRunError, StopRequest
from training.engine.learner import Learner
from training.engine.process_group import ProcessGroup
from training.engine.step import Step
from training.engine.trainer import Trainer
from training.methods.method import Terms
from training.networks.layers import use_fast_layers
from training.records.checkpoint import Checkpoint
from training.records.journal import Progress

STEPS = 50
MakePlan = Callable[..., Plan]

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def loss_curve(learner: Learner, data: Dataset, steps: int = STEPS) -> NDArray[np.float64]:
    batches = Batches(
        data.train_images, data.train_labels, batch_size=8, device=learner.device, seed=0
    )
    done = 0
    while done < steps:
        for batch in batches.epoch(done):
            # Both change at every step, so a graph has to read them anew.
            rate, scale = 0.01 * (1 + done / steps), min(1.0, done / 10)
            learner.step(batch, learning_rate=rate, scale=scale)
            done += 1
            if done == steps:
                break
    return learner.log.take(ProcessGroup())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiler_sees_one_whole_graph(
    tiny_data: Dataset, make_plan: MakePlan, precision: str
) -> None:
    """What torch.compile gets on a GPU, traced on the CPU without making kernels."""
    curves = []
    for compiled in (False, True):
        plan = make_plan("drg+dsr", arch="shufflenetv2", precision=precision)
        learner = build_learner(plan, tiny_data, steps_per_epoch=4, device=torch.device("cpu"))
        assert isinstance(learner.step, Step)
        if precision == "bf16":  # as on a GPU
            use_fast_layers(learner.student)
            use_fast_layers(learner.methods)
        if compiled:
            learner.step.loss = torch.compile(
                learner.step.loss, backend="eager", fullgraph=True, dynamic=False
            )
        curves.append(loss_curve(learner, tiny_data, steps=4))
    assert np.array_equal(*curves)


def test_no_step_goes_on_uncompiled_unnoticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it did on a GPU, where a benchmark then called DSR 15 % dearer than it is."""
    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, dynamic, options: compile_(f, dynamic=dynamic, backend="eager")
    )
    compiled = step._compiled(lambda batch, _: {"sum": Terms({"of": batch.images.sum()})})

    def total(count: int) -> float:
        numbers = torch.zeros(count, dtype=torch.int64)
        batch = Batch(torch.ones(count), numbers, numbers, None)
        return float(compiled(batch, {})["sum"].values["of"])

    # The module's own way to change it: what monkeypatch leaves behind breaks its alias.
    with torch._dynamo.config.patch(recompile_limit=1):
        assert total(2) == 2
        with pytest.raises(Exception, match="limit"):
            total(3)


def _without_dropout(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


@pytest.mark.gpu
@needs_gpu
# Raised inside torch 2.11 while it compiles.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("arch", "recipe"),
    [
        ("mobilenetv2", {}),
        ("shufflenetv2", {"optimizer": "adamw", "learning_rate": 1e-3, "ema_decay": 0.9}),
        ("resnet18", {"dsr_teacher": "ema", "mixup": 0.2}),
    ],
)
def test_captured_equals_plain(
    tiny_data: Dataset, make_plan: MakePlan, arch: str, recipe: dict[str, object], compiled: bool
) -> None:
    device = torch.device("cuda")
    learners = [
        build_learner(
            make_plan("drg+dsr", arch=arch, compile=own, **recipe),
            tiny_data,
            steps_per_epoch=STEPS,
            device=device,
        )
        for own in (compiled, False)
    ]
    for learner in learners:
        assert isinstance(learner.step, CapturedStep)
        if compiled:  # a compiled kernel draws what is dropped out by itself
            _without_dropout(learner.student)
    learners[1].step = learners[1].step.plain  # type: ignore[union-attr]
    curves = []
    for learner in learners:
        torch.manual_seed(0)  # dropout
        curves.append(loss_curve(learner, tiny_data))
    assert np.isfinite(curves[0]).all()
    if not compiled:
        assert np.array_equal(*curves)
        return
    assert not torch._dynamo.utils.counters["graph_break"]
    # bf16 has 8 bits of mantissa, and a compiled kernel rounds less often.
    np.testing.assert_allclose(curves[0][:10], curves[1][:10], rtol=0.1, atol=0.1)
    np.testing.assert_allclose(
        curves[0][-10:].mean(axis=0), curves[1][-10:].mean(axis=0), rtol=0.2, atol=0.1
    )


@pytest.mark.gpu
@needs_gpu
def test_a_captured_run_is_resumed(tiny_data: Dataset, make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan("drg+dsr", compile=False, epochs=8)
    left: list[Checkpoint] = []

    def trainer() -> Trainer:
        return Trainer(plan, tiny_data, device=torch.device("cuda"))

    def train(own: Trainer, stop: StopRequest) -> None:
        own.train(tmp_path, left.append, Progress(epochs=8, quiet=True), stop)

    undisturbed = trainer()
    train(undisturbed, StopRequest())
    first = trainer()
    stop = StopRequest()
    stop.requested = True
    with pytest.raises(InterruptedRunError):
        train(first, stop)
    second = trainer()
    second.restore(left[-1])
    train(second, StopRequest())
    losses = [[line["loss"] for line in own.history] for own in (undisturbed, second)]
    np.testing.assert_allclose(*losses, rtol=0.1)
