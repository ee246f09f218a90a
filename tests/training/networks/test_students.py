"""Students are torchvision's networks; the head is light and leaves no trace in them."""

import pytest
import torch
from torch import nn
from torchvision import models

from runtime.base.errors import UserError
from training.config.archs import ARCHS
from training.networks.students import build_student, cost_of, feature_channels, feature_modules

TORCHVISION = {
    ("mobilenetv2", 1.0): lambda: models.mobilenet_v2(num_classes=100),
    ("mobilenetv2", 0.35): lambda: models.mobilenet_v2(num_classes=100, width_mult=0.35),
    ("shufflenetv2", 0.5): lambda: models.shufflenet_v2_x0_5(num_classes=100),
    ("shufflenetv2", 1.0): lambda: models.shufflenet_v2_x1_0(num_classes=100),
    ("shufflenetv2", 1.5): lambda: models.shufflenet_v2_x1_5(num_classes=100),
    ("shufflenetv2", 2.0): lambda: models.shufflenet_v2_x2_0(num_classes=100),
    ("resnet18", 1.0): lambda: models.resnet18(num_classes=100),
    ("resnet50", 1.0): lambda: models.resnet50(num_classes=100),
    ("resnet101", 1.0): lambda: models.resnet101(num_classes=100),
    ("resnext50_32x4d", 1.0): lambda: models.resnext50_32x4d(num_classes=100),
    ("densenet121", 1.0): lambda: models.densenet121(num_classes=100),
}


def student_on_meta(arch: str, width: float, image_size: int) -> nn.Module:
    with torch.device("meta"):
        return build_student(arch, num_classes=100, image_size=image_size, width=width)


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


@pytest.mark.parametrize("image_size", [28, 32, 64, 224])
@pytest.mark.parametrize(("arch", "width"), TORCHVISION)
def test_state_dict_is_torchvisions(arch: str, width: float, image_size: int) -> None:
    with torch.device("meta"):
        plain = TORCHVISION[arch, width]()
    assert shapes(student_on_meta(arch, width, image_size)) == shapes(plain)


def test_at_224_px_nothing_is_changed() -> None:
    student = build_student("mobilenetv2", num_classes=7, image_size=224, width=0.25).eval()
    plain = models.mobilenet_v2(num_classes=7, width_mult=0.25).eval()
    plain.load_state_dict(student.state_dict())
    images = torch.randn(1, 3, 224, 224)
    assert torch.equal(student(images), plain(images))


@pytest.mark.parametrize(
    ("image_size", "stride"), [(28, 8), (32, 8), (40, 8), (41, 16), (64, 16), (80, 16), (81, 32)]
)
@pytest.mark.parametrize("arch", ARCHS)
def test_output_stride_follows_the_image_size(arch: str, image_size: int, stride: int) -> None:
    sizes = {}
    student = student_on_meta(arch, 1.0, image_size)
    for stage in (2, 4):
        student.get_submodule(feature_modules(arch)[f"stage{stage}"]).register_forward_hook(
            lambda _module, _inputs, output, stage=stage: sizes.update({stage: output.shape[-1]})
        )
    student.eval()(torch.zeros(1, 3, image_size, image_size, device="meta"))
    # DenseNet's pools round down, strided convolutions round up.
    assert sizes[4] in (image_size // stride, -(-image_size // stride))
    # The tap, the second of four stages, has a quarter of the output stride.
    assert sizes[2] in (image_size // (stride // 4), -(-image_size // (stride // 4)))


@pytest.mark.parametrize(
    ("arch", "channels"),
    [("mobilenetv2", 32), ("shufflenetv2", 116), ("resnet18", 128), ("densenet121", 512)],
)
def test_tap_is_the_second_stage(arch: str, channels: int) -> None:
    student = student_on_meta(arch, 1.0, 32)
    assert feature_channels(student, arch, 32)["stage2"] == channels


def test_a_look_at_the_feature_maps_leaves_the_student_as_it_was() -> None:
    student = build_student("mobilenetv2", num_classes=10, image_size=32, width=0.25)
    former = {name: value.clone() for name, value in student.state_dict().items()}
    assert student.training
    feature_channels(student, "mobilenetv2", 32)
    assert student.training
    assert all(torch.equal(value, former[name]) for name, value in student.state_dict().items())
    assert not any(module._forward_hooks for module in student.modules())


@pytest.mark.parametrize("arch", ["mobilenetv2", "shufflenetv2"])
def test_params_and_macs_at_32_px(arch: str) -> None:
    """The networks of the published figures: 2.35 M and 88 M, 1.36 M and 45 M (100 classes)."""
    cost = cost_of(student_on_meta(arch, 1.0, 32), image_size=32)
    params, macs = {"mobilenetv2": (2.352e6, 88.1e6), "shufflenetv2": (1.356e6, 45.0e6)}[arch]
    assert cost.params == pytest.approx(params, rel=0.005)
    assert cost.macs == pytest.approx(macs, rel=0.01)


@pytest.mark.parametrize(
    ("arch", "width", "expected"),
    [
        ("mobilnet", 1.0, "choose one of mobilenetv2, shufflenetv2"),
        ("mobilenetv2", 0.2, "takes 0.25 to 1.4"),
        ("shufflenetv2", 0.75, "has 0.5, 1.0, 1.5, 2.0"),
        ("resnet18", 0.5, "has only 1.0"),
    ],
)
def test_unknown_students_are_refused(arch: str, width: float, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        build_student(arch, num_classes=10, image_size=32, width=width)
