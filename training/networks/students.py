"""The students: torchvision's own networks with their early strides fitted to the image size.

Nothing but strides changes, so parameters and state-dict keys are torchvision's and its weights
load. `student(images) -> logits`, always; images are float32 (N, 3, S, S), normalised.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
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

    The output stride is 8 up to 40 px, 16 up to 80 px and 32 above. UserError for an unknown arch
    or width.
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


def tap_name(arch: str, tap: int) -> str:
    """Name of the submodule whose output is the feature map of stage `tap`, 1 to 4."""
    return _FAMILIES[arch].stages[tap - 1]


def last_map_name(arch: str) -> str:
    """Name of the submodule whose feature map is pooled for the classifier."""
    return _FAMILIES[arch].last


def map_before_last_name(arch: str) -> str:
    """Name of the submodule with the feature map before that one (320 channels in MobileNetV2)."""
    return _FAMILIES[arch].before_last


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
        # A pool that no longer halves would only blur.
        parent, _, child = name.rpartition(".")
        setattr(student.get_submodule(parent), child, nn.Identity())
    else:
        module.stride = (1, 1)  # type: ignore[assignment]  # nn.Module types attributes as Tensor


def channels_at(student: nn.Module, tap: str, image_size: int) -> int:
    """Channels of the feature map that submodule `tap` gives for images of `image_size`."""
    shape: list[int] = []
    handle = student.get_submodule(tap).register_forward_hook(
        lambda _module, _inputs, output: shape.extend(output.shape)
    )
    was_training = student.training
    # Evaluation mode: a look at the shapes must not move the running statistics.
    student.eval()
    device = next(student.parameters()).device
    with torch.no_grad():
        student(torch.zeros(1, 3, image_size, image_size, device=device))
    student.train(was_training)
    handle.remove()
    return shape[1]
