"""From a finished run to what trains its student through simulated int8 numbers."""

from functools import partial

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from runtime.model.preprocess import preprocess
from training.augmentation.augment import channel_statistics, normalise
from training.config.plan import Plan
from training.config.recipe import Recipe
from training.data import Dataset
from training.engine.build import build_augmentation, build_methods
from training.engine.captured_step import CapturedStep
from training.engine.execution import Execution, execution_of
from training.engine.learner import Learner
from training.engine.optimizers import build_optimizer
from training.engine.process_group import ProcessGroup
from training.engine.step import Step, StepParts, TermLog
from training.methods.drg_dsr import Drg
from training.methods.method import FeatureReader, Setting
from training.networks.students import feature_modules, student_of
from training.quantization.qdq_rules import Kind
from training.quantization.quantized_student import QuantizedStudent
from training.quantization.self_teacher import SelfTeacher, frozen
from training.records.checkpoint import Checkpoint

_DRG = "drg"
_OBSERVED = 512  # training images from which the first ranges come
# Larger steps moved the weights of a finished student further than rounding does: docs/measured.md
# has the table. At 1 the loss is the divergence by which the epoch is chosen, too; what another
# temperature does at this rate is not measured.
_RATE = 2e-5
_TEMPERATURE = 1.0


def recipe_for_int8(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe of a run for the training of its int8 numbers.

    Data, batches and augmentation are the run's. The rest is what fine-tuning needs: small steps
    that end at zero, and no mixing, because a teacher answers for whatever it is shown.
    """
    return msgspec.structs.replace(
        recipe,
        epochs=epochs,
        optimizer="adamw",
        learning_rate=_RATE,
        temperature=_TEMPERATURE,
        weight_decay=0.0,
        schedule="cosine",
        warmup_epochs=0.0,
        distillation_warmup_epochs=0.0,
        label_smoothing=0.0,
        class_weights="none",
        mixup=0.0,
        cutmix=0.0,
        mix_share=1.0,
        unmixed_epochs=0.0,
        compile=False,
        precision="fp32",
        ema_decay=0.0,
        select="last",
        patience=0,
    )


def build_quantized_learner(
    plan: Plan,
    dataset: Dataset,
    rows: NDArray[np.int64],
    *,
    kind: Kind,
    source: Checkpoint,
    steps_per_epoch: int,
    device: torch.device,
    group: ProcessGroup,
    teacher: nn.Module | None = None,
    execution: Execution | None = None,
) -> Learner:
    """A learner whose student is that of `source`, through the int8 numbers of `kind`.

    `teacher` is not asked, because the student's own float32 self teaches, and `execution` None is
    what the recipe says.

    Raises:
        UserError: int8 cannot be trained through this student.
    """
    torch.manual_seed(plan.seed)
    student, exact = (student_of(plan) for _ in range(2))
    for network in (student, exact):
        network.load_state_dict(source.best_student)
    scale = torch.ones((), device=device)
    heads = _heads_of(source, exact, dataset, scale=scale, device=device)
    quantized = QuantizedStudent(student, kind, arch=plan.arch)
    for module in (quantized, exact):
        module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    quantized.observe(_images(dataset, rows, device))
    names = feature_modules(plan.arch)
    read = {key: names[key] for key in ([] if heads is None else heads.reads)}
    taught = FeatureReader(frozen(exact), read)
    setting = _setting(plan, student, scale=scale, steps_per_epoch=steps_per_epoch, device=device)
    methods = nn.ModuleDict({"self": SelfTeacher(setting, taught, heads)})
    generator = torch.Generator(device).manual_seed(plan.seed)
    augmentation = build_augmentation(plan, device=device)
    parts = StepParts(
        student=quantized.train(),
        reader=partial(quantized.outputs, features=read),
        methods=methods,
        optimizer=build_optimizer([quantized], plan.recipe),
        prepare=partial(augmentation.augment, num_classes=plan.num_classes, generator=generator),
        average=None,
        log=TermLog(SelfTeacher.term_names, capacity=steps_per_epoch, device=device),
        group=group,
        scale=scale,
        device=device,
    )
    step = Step(parts)
    return Learner(
        student=quantized,
        methods=methods,
        optimizer=parts.optimizer,
        average=None,
        generator=generator,
        step=(
            CapturedStep(step, generator=generator, device=device, single=group.world_size == 1)
            if device.type == "cuda"
            else step
        ),
        log=parts.log,
        mix_share=None,
        group=group,
        execution=execution or execution_of(plan.recipe, device),
        device=device,
    )


def _heads_of(
    source: Checkpoint,
    student: nn.Module,
    dataset: Dataset,
    *,
    scale: Tensor,
    device: torch.device,
) -> Drg | None:
    """The heads that DRG trained, frozen; None if the run had none."""
    if _DRG not in source.plan.methods or source.auxiliary is None:
        return None
    plan = msgspec.structs.replace(source.plan, methods=(_DRG,))
    drg = build_methods(plan, student, dataset, steps_per_epoch=1, scale=scale, device=device)[_DRG]
    assert isinstance(drg, Drg)
    start = f"{_DRG}."
    drg.load_state_dict(
        {k.removeprefix(start): v for k, v in source.auxiliary.items() if k.startswith(start)}
    )
    frozen(drg)
    return drg


def _setting(
    plan: Plan, student: nn.Module, *, scale: Tensor, steps_per_epoch: int, device: torch.device
) -> Setting:
    """What the method needs of the run: it looks at no label."""
    *_, classifier = (module for module in student.modules() if isinstance(module, nn.Linear))
    return Setting(
        recipe=plan.recipe,
        arch=plan.arch,
        num_classes=plan.num_classes,
        channels={},
        classifier=classifier,
        labels=torch.zeros(0, dtype=torch.int64, device=device),
        image_shape=(),
        steps_per_epoch=steps_per_epoch,
        scale=scale,
        device=device,
    )


def _images(dataset: Dataset, rows: NDArray[np.int64], device: torch.device) -> Tensor:
    """Normalised training images float32 (N, 3, S, S), spread evenly over all."""
    chosen = rows[:: max(1, len(rows) // _OBSERVED)][:_OBSERVED]
    images = np.stack([preprocess(dataset.train_images[row], dataset.input) for row in chosen])
    mean, std = channel_statistics(dataset.input, device)
    return normalise(torch.from_numpy(images).to(device), mean, std)
