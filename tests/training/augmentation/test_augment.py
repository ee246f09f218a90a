"""The augmentation of a batch as the trainer calls it."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms import v2

from runtime.base.errors import UserError
from runtime.model.card import InputSpec
from training.augmentation.augment import Augmentation, channel_statistics, normalise

SPEC = InputSpec(size=16, resize=16, crop=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
CPU = torch.device("cpu")
VARIANTS: list[dict[str, Any]] = [
    {"crop": "none", "flip": False},
    {"crop": "none"},
    {"crop": "pad"},
    {"crop": "pad", "padding": 0, "flip": False},
    {"crop": "resized"},
    {"crop": "pad", "erasing": 0.5},
    {"crop": "pad", "mixup": 0.2},
    {"crop": "resized", "cutmix": 1.0},
    {"crop": "resized", "erasing": 0.25, "mixup": 0.2, "cutmix": 1.0},
]
every_variant = pytest.mark.parametrize("options", VARIANTS, ids=str)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(count: int = 24, side: int = 16) -> tuple[Tensor, Tensor]:
    images = torch.randint(256, (count, side, side, 3), generator=generator(1), dtype=torch.uint8)
    return images, torch.randint(5, (count,), generator=generator(2))


def build(**options: Any) -> Augmentation:
    return Augmentation(input=SPEC, device=CPU, **options)


def test_normalising_is_what_torchvision_does() -> None:
    images, _ = batch()
    mean, std = channel_statistics(SPEC, CPU)
    preset = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(SPEC.mean, SPEC.std)])
    found = normalise(images, mean, std)
    assert torch.allclose(found, preset(images.permute(0, 3, 1, 2)), atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)


@every_variant
def test_shapes_types_and_layout(options: dict[str, Any]) -> None:
    images, labels = batch()
    pixels, targets = build(**options).augment(images, labels, 5, generator())
    assert pixels.shape == (24, 3, 16, 16)
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    if "mixup" in options or "cutmix" in options:
        assert targets.shape == (24, 5)
        assert torch.allclose(targets.sum(dim=1), torch.ones(24), atol=1e-6)
    else:
        assert targets is labels


@every_variant
def test_the_generator_decides_everything(options: dict[str, Any]) -> None:
    images, labels = batch()
    augmentation = build(**options)
    original = images.clone()
    results = [augmentation.augment(images, labels, 5, generator(seed)) for seed in (3, 3, 4)]
    assert torch.equal(images, original)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    random = options.get("flip", True)
    assert torch.equal(results[0][0], results[2][0]) != random


@every_variant
def test_no_shape_and_no_branch_depends_on_a_value(options: dict[str, Any]) -> None:
    """Tensors without values: `.item()`, `nonzero` or a mask as an index would raise.

    That, and drawing from one generator, is what capture as a CUDA graph asks for.
    """
    with FakeTensorMode(allow_non_fake_inputs=False):
        images = torch.zeros(24, 16, 16, 3, dtype=torch.uint8)
        labels = torch.zeros(24, dtype=torch.int64)
        augmentation = build(**options)
        pixels, _ = augmentation.augment(images, labels, 5, generator())
    assert pixels.shape == (24, 3, 16, 16)


def test_nothing_on_is_plain_normalising() -> None:
    images, labels = batch()
    augmentation = build(crop="none", flip=False)
    pixels, _ = augmentation.augment(images, labels, 5, generator())
    assert torch.equal(pixels, normalise(images, augmentation.mean, augmentation.std))


def test_half_of_the_images_are_flipped_and_none_when_off() -> None:
    images, labels = batch(4000)
    on, off = build(crop="none"), build(crop="none", flip=False)
    plain, _ = off.augment(images, labels, 5, generator())
    pixels, _ = on.augment(images, labels, 5, generator())
    same = (pixels == plain).flatten(1).all(dim=1)
    mirrored = (pixels == plain.flip(3)).flatten(1).all(dim=1)
    assert (same ^ mirrored).all()
    # Binomial(4000, 0.5) has a standard deviation of 32.
    assert abs(int(mirrored.sum()) - 2000) < 4 * 32


@pytest.mark.parametrize("crop", ["pad", "resized"])
def test_flips_can_be_switched_off(crop: Any) -> None:
    """Values grow to the right in each row of these images, so a mirrored row is recognised."""
    ramp = torch.arange(16, dtype=torch.uint8)[None, None, :, None] * 10 + 50
    images = ramp.expand(500, 16, 16, 3).contiguous()
    labels = torch.zeros(500, dtype=torch.int64)
    for flip, rate in ((False, 0.0), (True, 0.5)):
        pixels, _ = build(crop=crop, flip=flip, padding=2).augment(images, labels, 2, generator())
        middle = pixels[:, 0, 8, 4:12]  # out of reach of the padding
        falling = (middle[:, -1] < middle[:, 0]).float().mean().item()
        assert falling == pytest.approx(rate, abs=0.1)


def test_every_offset_of_a_padded_crop_is_equally_likely() -> None:
    spot = torch.zeros(9000, 16, 16, 3, dtype=torch.uint8)
    spot[:, 8, 8] = 255
    labels = torch.zeros(9000, dtype=torch.int64)
    augmentation = build(crop="pad", padding=1, flip=False)
    pixels, _ = augmentation.augment(spot, labels, 2, generator())
    where = pixels[:, 0].flatten(1).argmax(dim=1)
    positions, counts = np.unique(where.numpy(), return_counts=True)
    assert sorted(positions) == sorted(16 * y + x for y in (7, 8, 9) for x in (7, 8, 9))
    assert (abs(counts - 1000) < 4 * 30).all()  # a standard deviation of 30


def test_erasing_hits_the_asked_share_of_the_images_with_the_mean() -> None:
    images, labels = batch(4000)
    plain, _ = build(crop="none", flip=False).augment(images, labels, 5, generator())
    pixels, _ = build(crop="none", flip=False, erasing=0.3).augment(images, labels, 5, generator())
    changed = (pixels != plain).flatten(1).any(dim=1)
    assert (pixels[pixels != plain] == 0).all()
    assert abs(int(changed.sum()) - 1200) < 4 * 29  # Binomial(4000, 0.3)


def test_with_both_on_each_image_is_mixed_in_one_of_two_ways() -> None:
    images = torch.zeros(4000, 16, 16, 3, dtype=torch.uint8)
    images[::2] = 255
    labels = torch.arange(4000) % 2
    augmentation = build(crop="none", flip=False, mixup=1.0, cutmix=1.0)
    pixels, _ = augmentation.augment(images, labels, 2, generator())
    low, high = pixels[:, 0].amin(), pixels[:, 0].amax()
    cut = ((pixels[:, 0] == low) | (pixels[:, 0] == high)).flatten(1).all(dim=1)
    assert abs(int(cut.sum()) - 2000) < 4 * 32


def test_images_that_do_not_fit_are_refused() -> None:
    images, labels = batch(side=18)
    for crop in ("none", "pad"):
        with pytest.raises(UserError, match="use crop 'resized'"):
            build(crop=crop).augment(images, labels, 5, generator())
    assert build(crop="resized").augment(images, labels, 5, generator())[0].shape[-1] == 16


@pytest.mark.parametrize(
    "options", [{"padding": -1}, {"erasing": 1.5}, {"erasing": -0.1}, {"mixup": -1}, {"cutmix": -1}]
)
def test_settings_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="expected none below 0"):
        build(**options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_variant
def test_a_captured_augmentation_draws_anew_at_each_replay(options: dict[str, Any]) -> None:
    device = torch.device("cuda")
    images, labels = (tensor.to(device) for tensor in batch())
    augmentation = Augmentation(input=SPEC, device=device, **options)
    drawn = torch.Generator(device).manual_seed(0)
    augmentation.augment(images, labels, 5, drawn)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(drawn)
    with torch.cuda.graph(graph):
        pixels, targets = augmentation.augment(images, labels, 5, drawn)
    drawn.manual_seed(7)
    results = []
    for _ in range(2):
        graph.replay()
        results.append((pixels.clone(), targets.clone()))
    eager = torch.Generator(device).manual_seed(7)
    for found in results:
        wanted = augmentation.augment(images, labels, 5, eager)
        assert torch.equal(found[0], wanted[0])
        assert torch.equal(found[1], wanted[1])
