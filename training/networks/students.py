"""The students: torchvision's own networks with their early strides fitted to the image size.

Nothing but strides changes, so parameters and state-dict keys are torchvision's and its weights
load. `student(images) -> logits`, always; images are float32 (N, 3, S, S), normalised.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from training.config.archs import MOBILENET, SHUFFLENET, check_arch
from training.config.plan import Plan

# Up to this image size that many of the first strides become 1: output stride 8, then 16, then 32.
_STRIDES_REMOVED = ((40, 2), (80, 1))


@dataclass(frozen=True)
class _Family:
    """Where a family of networks keeps its early strides, its stages and its classifier."""

    strided: tuple[str, str]  # the first two modules that halve the resolution
    stages: tuple[str, str, str, str]  # the last module of each of the four stages
    last: str  # the module whose map is pooled for the classifier
    before_last: str  # the one before: a stage earlier, or what the last convolution reads
    classifier: str


_MOBILENET = _Family(
    strided=("features.0.0", "features.2.conv.1.0"),
    stages=("features.3", "features.6", "features.13", "features.17"),
    last="features.18",
    before_last="features.17",
    classifier="classifier.1",
)
_SHUFFLENET = _Family(
    strided=("conv1.0", "maxpool"),
    stages=("maxpool", "stage2", "stage3", "stage4"),
    last="conv5",
    before_last="stage4",
    classifier="fc",
)
_RESNET = _Family(
    strided=("conv1", "maxpool"),
    stages=("layer1", "layer2", "layer3", "layer4"),
    last="layer4",
    before_last="layer3",
    classifier="fc",
)
_DENSENET = _Family(
    strided=("features.conv0", "features.pool0"),
    stages=(
        "features.denseblock1",
        "features.denseblock2",
        "features.denseblock3",
        "features.denseblock4",
    ),
    last="features",  # before its ReLU
    before_last="features.denseblock3",
    classifier="classifier",
)
_FAMILIES: dict[str, _Family] = {
    MOBILENET: _MOBILENET,
    SHUFFLENET: _SHUFFLENET,
    "resnet18": _RESNET,
    "resnet50": _RESNET,
    "resnet101": _RESNET,
    "resnext50_32x4d": _RESNET,
    "densenet121": _DENSENET,
}


def student_of(plan: Plan) -> nn.Module:
    """The student of a run, freshly initialised; see `build_student`."""
    return build_student(
        plan.arch, num_classes=plan.num_classes, image_size=plan.input.size, width=plan.width
    )


def build_student(arch: str, *, num_classes: int, image_size: int, width: float = 1.0) -> nn.Module:
    """Torchvision's network, freshly initialised, for `num_classes` and `image_size` pixels.

    The output stride is 8 up to 40 px, 16 up to 80 px and 32 above.

    Raises:
        UserError: for an unknown arch or width.
    """
    check_arch(arch, width)
    if arch == MOBILENET:
        student: nn.Module = models.mobilenet_v2(num_classes=num_classes, width_mult=width)
    else:
        student = _constructor(arch, width)(weights=None, num_classes=num_classes)
    removed = next((count for limit, count in _STRIDES_REMOVED if image_size <= limit), 0)
    for name in _FAMILIES[arch].strided[:removed]:
        _remove_stride(student, name)
    return student


def feature_modules(arch: str) -> dict[str, str]:
    """The names of the modules that give a student's feature maps, by the map's name.

    "stage1" to "stage4" are the last modules of the four stages. "last" is the map that is pooled
    for the classifier. "before last" is the one before it: a stage earlier, or what the last
    convolution reads, such as the 320 channels of MobileNetV2.
    """
    family = _FAMILIES[arch]
    stages = {f"stage{number}": name for number, name in enumerate(family.stages, start=1)}
    return {**stages, "last": family.last, "before last": family.before_last}


def classifier_name(arch: str) -> str:
    """Name of the last linear layer, the only one whose shape depends on the classes."""
    return _FAMILIES[arch].classifier


def torchvision_name(arch: str, width: float) -> str:
    """Torchvision's word for a student, e.g. "shufflenet_v2_x1_5"."""
    if arch == MOBILENET:
        return "mobilenet_v2"
    if arch == SHUFFLENET:
        return f"shufflenet_v2_x{width:.1f}".replace(".", "_")
    return arch


def _constructor(arch: str, width: float) -> Callable[..., nn.Module]:
    constructor: Callable[..., nn.Module] = getattr(models, torchvision_name(arch, width))
    return constructor


def _remove_stride(student: nn.Module, name: str) -> None:
    module = student.get_submodule(name)
    if isinstance(module, nn.MaxPool2d):
        # Without its stride a pool would only blur, so it is removed.
        parent, _, child = name.rpartition(".")
        setattr(student.get_submodule(parent), child, nn.Identity())
    else:
        module.stride = (1, 1)  # type: ignore[assignment]  # nn.Module types attributes as Tensor


def feature_channels(student: nn.Module, arch: str, image_size: int) -> dict[str, int]:
    """The channels of each feature map of `feature_modules`, for images of `image_size` pixels."""
    channels: dict[str, int] = {}

    def note(key: str, _module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        channels[key] = output.shape[1]

    handles = [
        student.get_submodule(name).register_forward_hook(partial(note, key))
        for key, name in feature_modules(arch).items()
    ]
    was_training = student.training
    # In training mode, this look at the shapes would move the running statistics.
    student.eval()
    device = next(student.parameters()).device
    with torch.no_grad():
        student(torch.zeros(1, 3, image_size, image_size, device=device))
    student.train(was_training)
    for handle in handles:
        handle.remove()
    return channels


class Cost(NamedTuple):
    """Of one image at deployment: the auxiliary head is not in it."""

    params: int
    macs: int


def cost_of(student: nn.Module, *, image_size: int) -> Cost:
    """Counts parameters, and the multiply-accumulates of convolutions and linear layers."""
    device = next(student.parameters()).device
    images = torch.zeros(1, 3, image_size, image_size, device=device)
    was_training = student.training
    student.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        student(images)
    student.train(was_training)
    params = sum(parameter.numel() for parameter in student.parameters())
    return Cost(params, counter.get_total_flops() // 2)  # torch counts a multiply-add as two
