"""All that changes while a student learns: networks, optimizer, teacher, random generators."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from training.augment import Augmentation
from training.data.geometry import MAX_PADDED_CROP_SIZE
from training.distiller import SelfDistiller, build_distiller
from training.dsr_teacher import DsrTeacher
from training.objective import Objective
from training.optimizers import build_optimizer
from training.plan import Plan
from training.step import Step, TermLog
from training.students import build_student, tap_name
from training.weight_average import WeightAverage


@dataclass(kw_only=True)
class Learner:
    """The state of a run, and the step that advances it."""

    distiller: SelfDistiller
    optimizer: torch.optim.Optimizer
    dsr_teacher: DsrTeacher | None
    average: WeightAverage | None
    generator: torch.Generator  # of the augmentation
    step: Step
    log: TermLog
    device: torch.device

    def deployed(self) -> dict[str, Tensor]:
        """State dict of the student as it is deployed: averaged, if the recipe averages."""
        if self.average is not None:
            return self.average.averaged
        return self.distiller.student.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs beside the student, as plain types and CPU tensors."""
        cuda = self.device.type == "cuda"
        return {
            "optimizer": _on_cpu(self.optimizer.state_dict()),
            "dsr_teacher": self.dsr_teacher.state_dict() if self.dsr_teacher else None,
            "augmentation": self.generator.get_state(),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self.device) if cuda else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave, also on another device."""
        load_optimizer(self.optimizer, state["optimizer"])
        if self.dsr_teacher is not None:
            self.dsr_teacher.load_state_dict(state["dsr_teacher"])
        self.generator.set_state(state["augmentation"])
        torch.set_rng_state(state["random"])
        if state["cuda_random"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_random"], self.device)


def build_learner(plan: Plan, *, steps_per_epoch: int, device: torch.device) -> Learner:
    """A fresh learner: equal plans give equal students, whatever the terms are."""
    torch.manual_seed(plan.seed)
    recipe = plan.recipe
    student = build_student(
        plan.arch, num_classes=plan.num_classes, image_size=plan.input.size, width=plan.width
    )
    # The head draws its weights elsewhere: student and dropout are the same with and without it.
    with torch.random.fork_rng(devices=[]):
        distiller = build_distiller(
            student,
            tap=tap_name(plan.arch, recipe.tap),
            num_classes=plan.num_classes,
            image_size=plan.input.size,
            auxiliary=plan.drg,
            head_width=recipe.head_width,
        )
    distiller.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    distiller.train()
    objective = Objective(
        drg=plan.drg,
        dsr=plan.dsr,
        drg_weight=recipe.drg_weight,
        dsr_weight=recipe.dsr_weight,
        temperature=recipe.temperature,
        label_smoothing=recipe.label_smoothing,
    )
    optimizer = build_optimizer(distiller, recipe)
    teacher = None
    if plan.dsr:
        teacher = DsrTeacher(
            recipe.dsr_teacher,
            batch_size=recipe.batch_size,
            num_classes=plan.num_classes,
            momentum=recipe.dsr_momentum,
            device=device,
        )
    average = WeightAverage(student, decay=recipe.ema_decay) if recipe.ema_decay else None
    generator = torch.Generator(device).manual_seed(plan.seed)
    log = TermLog(objective.term_names(), capacity=steps_per_epoch, device=device)
    augmentation = build_augmentation(plan, device=device)
    step = Step(
        distiller,
        objective,
        optimizer,
        prepare=partial(augmentation.augment, num_classes=plan.num_classes, generator=generator),
        dsr_teacher=teacher,
        average=average,
        log=log,
        device=device,
    )
    return Learner(
        distiller=distiller,
        optimizer=optimizer,
        dsr_teacher=teacher,
        average=average,
        generator=generator,
        step=step,
        log=log,
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


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads `state` but keeps the groups' own learning rates, tensors that a graph may hold."""
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_on_cpu(item) for item in value]
    return value
