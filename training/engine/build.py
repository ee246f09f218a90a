"""From a plan to what trains: batches, networks, optimizer, step."""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.augmentation.augment import Augmentation
from training.config.plan import Plan
from training.data import Dataset
from training.data.batches import Batches
from training.data.dataset import MAX_PADDED_CROP_SIZE
from training.engine.captured_step import CapturedStep, can_compile
from training.engine.learner import Learner, TrainStep
from training.engine.optimizers import build_optimizer
from training.engine.process_group import ProcessGroup
from training.engine.step import Step, StepParts, TermLog
from training.engine.weight_average import WeightAverage
from training.methods.distiller import SelfDistiller, build_distiller
from training.methods.dsr_teacher import DsrTeacher
from training.methods.objective import Objective
from training.methods.peer import Peer
from training.methods.peer_build import build_peer, needs_partners, partner_rows
from training.methods.peer_step import PeerStep, StageReader
from training.networks.fast_layers import use_fast_layers
from training.networks.students import student_of, tap_name

_RANK_SEEDS = 1_000_003  # between the seeds of two processes of one run


class _PeerParts(NamedTuple):
    """A peer, the student as it reads it, and the labels of the images that its step numbers."""

    peer: Peer
    reader: StageReader
    labels: Tensor  # int64 (M,), of all training images


def build_batches(
    plan: Plan,
    dataset: Dataset,
    rows: NDArray[np.int64],
    *,
    device: torch.device,
    group: ProcessGroup | None = None,
) -> Batches:
    """Batches of the training images `rows`, as the plan's step takes them.

    Where it has a peer, they hold row numbers instead of labels, and behind the images as many
    partners if the peer compares images with others of their class.
    """
    group = group or ProcessGroup()
    labels, peer = dataset.train_labels, plan.recipe.peer

    def partners(chosen: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        return partner_rows(chosen, labels, seed=plan.seed, epoch=epoch)

    return Batches(
        dataset.train_images,
        labels if peer == "none" else np.arange(len(labels)),
        batch_size=plan.recipe.batch_size,
        device=device,
        seed=plan.seed,
        rank=group.rank,
        world_size=group.world_size,
        subset=rows,
        companions=partners if needs_partners(peer) else None,
    )


def build_learner(
    plan: Plan,
    *,
    steps_per_epoch: int,
    device: torch.device,
    group: ProcessGroup | None = None,
    dataset: Dataset | None = None,
) -> Learner:
    """A fresh learner: its student starts the same whatever the plan's terms are.

    A recipe with a peer needs the `dataset`; its step takes row numbers instead of labels.
    """
    group = group or ProcessGroup()
    recipe = plan.recipe
    distiller = _build_distiller(plan, device)
    compiled = recipe.compile and recipe.peer == "none" and can_compile(device)
    if compiled:
        use_fast_layers(distiller)
    other = _build_peer_parts(plan, distiller, dataset, steps_per_epoch, device)
    peer = other.peer if other is not None else None
    generator = _seed_process(plan.seed, group, device)
    objective = _build_objective(plan)
    term_names = peer.term_names if peer is not None else objective.term_names()
    augmentation = build_augmentation(plan, device=device)
    parts = StepParts(
        distiller=distiller,
        objective=objective,
        optimizer=build_optimizer([distiller, *([peer] if peer else [])], recipe),
        prepare=partial(augmentation.augment, num_classes=plan.num_classes, generator=generator),
        dsr_teacher=_build_dsr_teacher(plan, device) if plan.dsr else None,
        average=_build_average(distiller, recipe.ema_decay),
        log=TermLog(term_names, capacity=steps_per_epoch, device=device),
        group=group,
        device=device,
        compiled=compiled,
    )
    return Learner(
        distiller=distiller,
        optimizer=parts.optimizer,
        dsr_teacher=parts.dsr_teacher,
        average=parts.average,
        peer=peer,
        generator=generator,
        step=_build_step(parts, other, generator),
        log=parts.log,
        group=group,
        device=device,
    )


def _seed_process(seed: int, group: ProcessGroup, device: torch.device) -> torch.Generator:
    """The generator of this process's augmentation; the weights have been drawn already."""
    if not group.is_main:  # the weights are the same everywhere, what is dropped out is not
        torch.manual_seed(seed + _RANK_SEEDS * group.rank)
    return torch.Generator(device).manual_seed(seed + _RANK_SEEDS * group.rank)


def _build_objective(plan: Plan) -> Objective:
    return Objective(
        drg=plan.drg,
        dsr=plan.dsr,
        drg_weight=plan.recipe.drg_weight,
        dsr_weight=plan.recipe.dsr_weight,
        temperature=plan.recipe.temperature,
        label_smoothing=plan.recipe.label_smoothing,
    )


def _build_average(distiller: SelfDistiller, decay: float) -> WeightAverage | None:
    return WeightAverage(distiller.student, decay=decay) if decay else None


def _build_peer_parts(
    plan: Plan,
    distiller: SelfDistiller,
    dataset: Dataset | None,
    steps_per_epoch: int,
    device: torch.device,
) -> _PeerParts | None:
    if plan.recipe.peer == "none":
        return None
    assert dataset is not None, "a peer is built for a data set"
    with torch.random.fork_rng(devices=[]):  # as the auxiliary head
        peer, reader = build_peer(
            plan, distiller.student, dataset, steps_per_epoch=steps_per_epoch, device=device
        )
    labels = torch.from_numpy(np.array(dataset.train_labels)).to(device)
    return _PeerParts(peer, reader, labels)


def _build_step(
    parts: StepParts, other: _PeerParts | None, generator: torch.Generator
) -> TrainStep:
    if other is None:
        step = Step(parts)
    else:
        step = PeerStep(parts, peer=other.peer, student=other.reader, labels=other.labels)
    if parts.device.type != "cuda":
        return step
    single = parts.group.world_size == 1
    return CapturedStep(step, generator=generator, device=parts.device, single=single)


def _build_distiller(plan: Plan, device: torch.device) -> SelfDistiller:
    torch.manual_seed(plan.seed)
    student = student_of(plan)
    # The head draws its weights aside: student and dropout are the same with and without it.
    with torch.random.fork_rng(devices=[]):
        distiller = build_distiller(
            student,
            tap=tap_name(plan.arch, plan.recipe.tap),
            num_classes=plan.num_classes,
            image_size=plan.input.size,
            auxiliary=plan.drg,
            head_width=plan.recipe.head_width,
        )
    distiller.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return distiller.train()


def _build_dsr_teacher(plan: Plan, device: torch.device) -> DsrTeacher:
    return DsrTeacher(
        plan.recipe.dsr_teacher,
        batch_size=plan.recipe.batch_size,
        num_classes=plan.num_classes,
        momentum=plan.recipe.dsr_momentum,
        device=device,
    )


def build_augmentation(plan: Plan, *, device: torch.device) -> Augmentation:
    """The recipe's augmentation; "auto" pads small images and cuts resized crops out of others."""
    recipe, size = plan.recipe, plan.input.size
    crop = recipe.crop
    if crop == "auto":
        crop = "pad" if size <= MAX_PADDED_CROP_SIZE else "resized"
    return Augmentation(
        input=plan.input,
        device=device,
        crop=crop,
        padding=recipe.padding,
        flip=recipe.flip,
        erasing=recipe.random_erasing,
        mixup=recipe.mixup,
        cutmix=recipe.cutmix,
    )
