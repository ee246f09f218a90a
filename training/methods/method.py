"""What a method of training is: the modules and the memory that it has, and the terms it gives.

A run has a list of methods, and the sum of all their terms is minimised. Nothing outside of this
folder knows a method by its name: `training.config.method_registry` lists them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import ClassVar, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.config.method_registry import METHOD_REGISTRY
from training.config.recipe import Recipe
from training.data.batches import Batch

# Names of a student's feature maps, as `training.networks.students.feature_modules` has them.
STAGES = ("stage1", "stage2", "stage3", "stage4")
LAST = "last"  # the map that is pooled for the classifier
BEFORE_LAST = "before last"  # a stage earlier, or what the last convolution reads


class Outputs(NamedTuple):
    """A student's logits (N, K), and the feature maps (N, C, H, W) that were asked for, by name."""

    logits: Tensor
    features: dict[str, Tensor]


# From normalised images (N, 3, S, S) to what the student makes of them.
Student: TypeAlias = Callable[[Tensor], Outputs]


class Terms(NamedTuple):
    """What a method gives of a batch.

    `values` are the weighted terms by name: float32 scalars, each the mean over the batch. `memory`
    is what `Method.remember` gets after the update, without gradients.
    """

    values: dict[str, Tensor]
    memory: Mapping[str, Tensor] = {}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The run that a method is built for."""

    recipe: Recipe
    arch: str
    num_classes: int
    channels: Mapping[str, int]  # of the feature maps, by name
    classifier: nn.Linear  # the student's own
    labels: Tensor  # int64 (M,), of all training images, on the device
    image_shape: tuple[int, ...]  # (H, W, 3), as stored
    steps_per_epoch: int
    # float32 scalar on the device, 0 to 1: how far the distillation weights have warmed up. The
    # step writes it; a method reads it in `terms` if its weights warm up.
    scale: Tensor
    device: torch.device
    class_weights: Tensor | None = None  # float32 (K,), of the cross-entropies; None: all are 1
    # The auxiliary heads, by the stage that each reads, of the methods that were built before.
    heads: dict[str, nn.Module] = field(default_factory=dict)
    # Normalised images (N, 3, S, S) to logits (N, K): what `--teacher` named, if it was given.
    teacher: nn.Module | None = None


class Method(nn.Module, ABC):
    """One method; a run may have several.

    Its parameters are trained beside the student's and dropped afterwards. Its memory is what
    `add_memory` made: it is no part of the network, but it is in the checkpoint. `terms` must not
    branch on values of tensors, because a captured step replays it, and must not change the memory,
    because a compiler traces it: `remember` does that after the update.
    """

    term_names: ClassVar[tuple[str, ...]]
    # Whether `Batch.partners` holds another image of the class for each image.
    needs_partners: ClassVar[bool] = False
    # Whether the memory is of single training images, so that one process must see all of them.
    remembers_images: ClassVar[bool] = False

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting = setting
        self.memory_names: list[str] = []

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of the feature maps that `terms` reads."""
        return ()

    @property
    def averaged_memory(self) -> tuple[str, ...]:
        """Which entries of `Terms.memory` are averaged over the processes of a run."""
        return ()

    def add_memory(self, name: str, value: Tensor) -> None:
        """Adds a tensor that is carried from step to step; read it with `get_buffer`."""
        self.memory_names.append(name)
        self.register_buffer(name, value)

    def partner_images(self, stored: Batch) -> Tensor | None:
        """Stored images (M, H, W, 3) that are augmented and come as `Batch.partners`.

        `stored` is the batch before augmentation. None: the method looks at no other images.
        """
        return stored.partners if self.needs_partners else None

    def cross_entropy(
        self, logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0
    ) -> Tensor:
        """`cross_entropy` of this module with the run's class weights."""
        return cross_entropy(
            logits, labels, label_smoothing=label_smoothing, weights=self.setting.class_weights
        )

    @abstractmethod
    def terms(self, student: Student, batch: Batch) -> Terms:
        """The terms of an augmented batch, by `term_names`.

        All methods of a run share one pass of `student` over `batch.images` itself; a pass over
        other images is the method's own.
        """

    def remember(self, memory: Mapping[str, Tensor], stored: Batch) -> None:
        """Takes over what is remembered of a batch, once the student has been updated.

        By default each entry is copied to the memory of its name.

        Args:
            memory: `Terms.memory` of that batch.
            stored: the batch before augmentation.
        """
        for name, value in memory.items():
            self.get_buffer(name).copy_(value)


class FeatureReader:
    """Runs a student and keeps feature maps.

    The student itself is untouched: it gives the same logits, and its state dict holds nothing of
    the reader.

    Args:
        student: images to logits.
        modules: names of the student's modules whose output is kept, by the map's name.
    """

    def __init__(self, student: nn.Module, modules: Mapping[str, str]) -> None:
        self._student = student
        self._features: dict[str, Tensor] = {}
        for key, name in modules.items():
            student.get_submodule(name).register_forward_hook(partial(self._keep, key))

    def __call__(self, images: Tensor) -> Outputs:
        """The outputs for normalised images (N, 3, S, S)."""
        # A new dict: an evaluation leaves maps in the former one, and a compiler that read it would
        # compile the step again after each of them.
        self._features = {}
        logits = self._student(images)
        features, self._features = self._features, {}  # holds no graph between steps
        return Outputs(logits, features)

    def _keep(
        self, key: str, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor
    ) -> None:
        self._features[key] = output


def method_class(name: str) -> type[Method]:
    """The class of the method called `name`, a name of `training.config.method_registry`."""
    module, _, kind = METHOD_REGISTRY[name].home.partition(":")
    found: type[Method] = getattr(import_module(f"training.methods.{module}"), kind)
    return found


# Losses that several methods share: float32 also under autocast, the mean over the batch. The
# teacher's side never receives a gradient.


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy of logits (N, K), float32 scalar.

    With weights w it is Σ_n Σ_k w_k p_nk (-log q_nk) / N, p the targets after smoothing: each share
    of a soft target has its own class's weight. That is torch's weighted cross-entropy of
    probabilities. For labels torch would divide by the sum of their weights instead of N, and a
    batch of rare images would count no more than another one.

    Args:
        logits: (N, K).
        labels: int64 (N,), or probabilities (N, K).
        label_smoothing: the share of each target that is spread evenly over all classes.
        weights: float32 (K,), what each class counts; None: 1.
    """
    if weights is not None:
        total = F.cross_entropy(
            logits.float(),
            labels,
            weight=weights,
            label_smoothing=label_smoothing,
            reduction="sum",
        )
        return total / len(logits)
    return F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)


def softened_kl(teacher: Tensor, logits: Tensor, *, temperature: float) -> Tensor:
    """T² · KL( σ(teacher / T), no gradient ‖ σ(logits / T) ), the mean over rows, float32 scalar.

    Args:
        teacher: logits (N, K) of what teaches.
        logits: logits (N, K) of what learns.
        temperature: T; both are divided by it.
    """
    log_teacher = F.log_softmax(teacher.detach().float() / temperature, dim=1)
    log_student = F.log_softmax(logits.float() / temperature, dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def mean_answer(answers: Sequence[Tensor], *, temperature: float) -> Tensor:
    """Logits whose softened answer is the mean of the softened answers, float32 (N, K), detached.

    T · log( mean_j σ(answers_j / T) ) for logits (N, K) of each head; for one head, its logits.
    """
    if len(answers) == 1:
        return answers[0].detach()
    softened = [F.log_softmax(answer.detach().float() / temperature, dim=1) for answer in answers]
    return temperature * (torch.logsumexp(torch.stack(softened), dim=0) - math.log(len(answers)))


def without_target(values: Tensor, labels: Tensor) -> Tensor:
    """Values (N, K) without each row's own class: (N, K - 1), in order."""
    count, classes = values.shape
    columns = torch.arange(classes - 1, device=values.device).expand(count, -1)
    return values.gather(1, columns + (columns >= labels[:, None]))
