"""From a plan to what trains: batches, networks, methods, optimizer, step."""

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.augmentation.augment import Augmentation, Crop, smallest_crop
from training.config.plan import Plan
from training.data import Dataset
from training.data.batches import Batches
from training.data.dataset import MAX_PADDED_CROP_SIZE
from training.data.rare_classes import weights_of_classes
from training.engine.captured_step import CapturedStep
from training.engine.execution import Execution, execution_of
from training.engine.learner import Learner, TrainStep
from training.engine.optimizers import build_optimizer
from training.engine.process_group import ProcessGroup
from training.engine.step import Step, StepParts, TermLog
from training.engine.sync_batch_norm import use_sync_batch_norm
from training.engine.weight_average import WeightAverage
from training.methods.method import FeatureReader, Method, Setting, method_class
from training.networks.layers import use_cpu_layers, use_fast_layers
from training.networks.students import (
    classifier_name,
    feature_channels,
    feature_modules,
    student_of,
)

_RANK_SEEDS = 1_000_003  # between the seeds of two processes of one run


def build_batches(
    plan: Plan,
    dataset: Dataset,
    rows: NDArray[np.int64],
    *,
    device: torch.device,
    group: ProcessGroup | None = None,
) -> Batches:
    """Batches of the training images `rows`, as the plan's methods need them."""
    group = group or ProcessGroup()
    return Batches(
        dataset.train_images,
        dataset.train_labels,
        batch_size=plan.recipe.batch_size,
        device=device,
        seed=plan.seed,
        rank=group.rank,
        world_size=group.world_size,
        subset=rows,
        balanced=plan.recipe.balanced_sampling,
        partners=any(method_class(name).needs_partners for name in plan.methods),
    )


def build_learner(
    plan: Plan,
    dataset: Dataset,
    rows: NDArray[np.int64] | None = None,
    *,
    steps_per_epoch: int,
    device: torch.device,
    group: ProcessGroup | None = None,
    teacher: nn.Module | None = None,
    execution: Execution | None = None,
) -> Learner:
    """A fresh learner; its student starts the same whatever the plan's methods are.

    `rows` are the training images that are trained on; None: all of them. `execution` None: what
    the recipe means for a short training.
    """
    group = group or ProcessGroup()
    recipe = plan.recipe
    execution = execution or execution_of(recipe, device)
    torch.manual_seed(plan.seed)
    student = student_of(plan)
    scale = torch.ones((), device=device)
    methods = build_methods(
        plan,
        student,
        dataset,
        rows,
        steps_per_epoch=steps_per_epoch,
        scale=scale,
        device=device,
        teacher=teacher,
    )
    student.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if execution.compiled and execution.device == "cuda":  # slower on a CPU (docs/measured.md)
        use_fast_layers(student)
        use_fast_layers(methods)
    if not execution.compiled and execution.device == "cpu":
        use_cpu_layers(student)
    if recipe.sync_batch_norm and group.world_size > 1:
        for network in (student, methods):
            use_sync_batch_norm(network, group.average, group.world_size)
    generator = _seed_process(plan.seed, group, device)
    changing = recipe.mix_share < 1 or recipe.unmixed_epochs > 0
    share = torch.ones((), device=device) if changing else None
    augmentation = build_augmentation(plan, device=device, mix_share=share)
    parts = StepParts(
        student=student.train(),
        reader=_build_reader(plan, student, methods),
        methods=methods,
        optimizer=build_optimizer([student, methods], recipe),
        prepare=partial(augmentation.augment, num_classes=plan.num_classes, generator=generator),
        average=WeightAverage(student, decay=recipe.ema_decay) if recipe.ema_decay else None,
        log=TermLog(_term_names(methods), capacity=steps_per_epoch, device=device),
        group=group,
        scale=scale,
        device=device,
        compiled=execution.compiled,
        precision=execution.precision,
    )
    return Learner(
        student=student,
        methods=methods,
        optimizer=parts.optimizer,
        average=parts.average,
        generator=generator,
        step=_build_step(parts, generator, exchanging=recipe.sync_batch_norm),
        log=parts.log,
        mix_share=share,
        group=group,
        execution=execution,
        device=device,
    )


def build_methods(
    plan: Plan,
    student: nn.Module,
    dataset: Dataset,
    rows: NDArray[np.int64] | None = None,
    *,
    steps_per_epoch: int,
    scale: Tensor,
    device: torch.device,
    teacher: nn.Module | None = None,
) -> nn.ModuleDict:
    """The plan's methods by name, on `device`, in training mode.

    They draw their weights aside, so that the student's weights and its dropout are the same with
    and without them.
    """
    classifier = student.get_submodule(classifier_name(plan.arch))
    assert isinstance(classifier, nn.Linear)
    setting = Setting(
        recipe=plan.recipe,
        arch=plan.arch,
        num_classes=plan.num_classes,
        channels=feature_channels(student, plan.arch, plan.input.size),
        classifier=classifier,
        labels=torch.from_numpy(np.array(dataset.train_labels)).to(device),
        class_weights=_class_weights(plan, dataset, rows, device=device),
        image_shape=dataset.train_images.shape[1:],
        steps_per_epoch=steps_per_epoch,
        scale=scale,
        device=device,
        teacher=teacher,
    )
    with torch.random.fork_rng(devices=[]):
        methods = nn.ModuleDict({name: method_class(name)(setting) for name in plan.methods})
    return methods.to(device).train()


def _class_weights(
    plan: Plan, dataset: Dataset, rows: NDArray[np.int64] | None, *, device: torch.device
) -> Tensor | None:
    """The weights (K,) of the classes in every cross-entropy; None if the recipe has none."""
    kind = plan.recipe.class_weights
    if kind == "none":
        return None
    labels = dataset.train_labels if rows is None else dataset.train_labels[rows]
    weights = weights_of_classes(kind, labels, num_classes=plan.num_classes)
    return torch.from_numpy(weights).to(device)


def _build_reader(plan: Plan, student: nn.Module, methods: nn.ModuleDict) -> FeatureReader:
    modules = feature_modules(plan.arch)
    read = [key for method in _each(methods) for key in method.reads]
    return FeatureReader(student, {key: modules[key] for key in dict.fromkeys(read)})


def _term_names(methods: nn.ModuleDict) -> list[str]:
    names = [name for method in _each(methods) for name in method.term_names]
    assert len(set(names)) == len(names), f"two methods of {list(methods)} name a term alike"
    return names


def _each(methods: nn.ModuleDict) -> list[Method]:
    return [method for method in methods.values() if isinstance(method, Method)]


def _seed_process(seed: int, group: ProcessGroup, device: torch.device) -> torch.Generator:
    """The generator of this process's augmentation; the weights have been drawn already."""
    if not group.is_main:  # the weights are the same everywhere, what is dropped out is not
        torch.manual_seed(seed + _RANK_SEEDS * group.rank)
    return torch.Generator(device).manual_seed(seed + _RANK_SEEDS * group.rank)


def _build_step(parts: StepParts, generator: torch.Generator, *, exchanging: bool) -> TrainStep:
    """The step; one that exchanges in its middle (`sync_batch_norm`) cannot be captured."""
    step = Step(parts)
    single = parts.group.world_size == 1
    if parts.device.type != "cuda" or (exchanging and not single):
        return step
    return CapturedStep(step, generator=generator, device=parts.device, single=single)


def crop_of(plan: Plan) -> Crop:
    """The recipe's crop; "auto" pads small images and cuts resized crops out of others."""
    if plan.recipe.crop != "auto":
        return plan.recipe.crop
    return "pad" if plan.input.size <= MAX_PADDED_CROP_SIZE else "resized"


def build_augmentation(
    plan: Plan, *, device: torch.device, mix_share: Tensor | None = None
) -> Augmentation:
    """The recipe's augmentation."""
    recipe = plan.recipe
    return Augmentation(
        input=plan.input,
        device=device,
        crop=crop_of(plan),
        crop_scale=recipe.crop_scale or smallest_crop(plan.input.fit),
        padding=recipe.padding,
        flip=recipe.flip,
        erasing=recipe.random_erasing,
        mixup=recipe.mixup,
        cutmix=recipe.cutmix,
        mix_share=mix_share,
    )
