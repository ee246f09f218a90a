"""Crops, flips and erasing against slow references, one image at a time."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import RandomErasing, RandomResizedCrop
from torchvision.transforms.v2 import functional as reference

from training.augmentation.augment import CROP_RATIO, CROP_SCALE, ERASING_RATIO, ERASING_SCALE
from training.augmentation.crops import (
    Boxes,
    box_mask,
    draw_boxes,
    erase,
    padded_crop,
    resized_crop,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(count: int, height: int, width: int) -> Tensor:
    return torch.randint(256, (count, height, width, 3), generator=generator(), dtype=torch.uint8)


def planar(image: Tensor) -> Tensor:
    return image.permute(2, 0, 1)


@pytest.mark.parametrize(("height", "width", "padding"), [(8, 8, 2), (5, 7, 3), (6, 6, 0)])
def test_padded_crop_is_torchvisions_pad_crop_and_flip(
    height: int, width: int, padding: int
) -> None:
    images = random_images(40, height, width)
    offsets = torch.randint(2 * padding + 1, (2, 40), generator=generator(1))
    flipped = torch.rand(40, generator=generator(2)) < 0.5
    cropped = padded_crop(images, offsets, flipped, padding=padding)
    for image, top, left, flip, found in zip(images, *offsets, flipped, cropped, strict=True):
        wanted = reference.crop(
            reference.pad(planar(image), [padding]), int(top), int(left), height, width
        )
        wanted = reference.horizontal_flip(wanted) if flip else wanted
        assert torch.equal(planar(found), wanted)


@pytest.mark.parametrize("size", [20, 32, 45])
def test_resized_crop_is_torchvisions(size: int) -> None:
    images = random_images(30, 32, 32)
    boxes = draw_boxes(images.permute(0, 3, 1, 2), CROP_SCALE, CROP_RATIO, generator=generator(1))
    flipped = torch.rand(30, generator=generator(2)) < 0.5
    found = resized_crop(images, boxes, flipped, size=size)
    for index, image in enumerate(images):
        top, left, height, width = (int(side[index]) for side in boxes)
        wanted = reference.resized_crop(
            planar(image).float(), top, left, height, width, [size, size], antialias=False
        )
        wanted = reference.horizontal_flip(wanted) if flipped[index] else wanted
        assert torch.allclose(planar(found[index]), wanted, atol=0.01)  # of 255


def test_the_whole_image_at_its_own_size_stays_as_it_is() -> None:
    images = random_images(4, 16, 16)
    zero, side = torch.zeros(4), torch.full((4,), 16.0)
    found = resized_crop(images, Boxes(zero, zero, side, side), torch.zeros(4) > 0, size=16)
    assert torch.allclose(found, images.float(), atol=1e-3)


def test_without_antialiasing_a_stored_image_loses_next_to_nothing() -> None:
    """A crop shrinks to 7/8 at most, as `resized_crop` says. There antialiasing changes little."""
    step = torch.linspace(0, 8 * np.pi, 256)
    waves = (127.5 + 127 * torch.sin(step[:, None] + 2 * step[None, :])).to(torch.uint8)
    image = waves[None, :, :, None].expand(1, 256, 256, 3)
    zero, side = torch.zeros(1), torch.full((1,), 256.0)
    found = resized_crop(image, Boxes(zero, zero, side, side), torch.zeros(1) > 0, size=224)
    wanted = reference.resize(planar(image[0]).float(), [224, 224], antialias=True)
    assert (planar(found[0]) - wanted).abs().mean() < 1.0  # of 255


def test_boxes_lie_in_the_image_and_have_the_asked_area_and_ratio() -> None:
    images = torch.empty(5000, 3, 48, 48)
    top, left, height, width = draw_boxes(images, (0.2, 0.6), (0.5, 2.0), generator=generator())
    assert all(torch.equal(side, side.round()) for side in (top, left, height, width))
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= 48
    area = height * width / 48**2
    assert area.min() > 0.2 - 0.03
    assert area.max() < 0.6 + 0.03
    assert (width / height).min() > 0.5 * 0.93
    assert (width / height).max() < 2.0 * 1.07


def test_every_position_of_a_box_is_equally_likely() -> None:
    """A box of 24 in 48 pixels has 25 places along each side."""
    boxes = draw_boxes(
        torch.empty(25_000, 3, 48, 48), (0.25, 0.25), (1.0, 1.0), generator=generator()
    )
    assert set(boxes.height.tolist()) == set(boxes.width.tolist()) == {24.0}
    for side in (boxes.top, boxes.left):
        counts = torch.bincount(side.long(), minlength=25)
        assert len(counts) == 25
        assert (counts - 1000).abs().max() < 4 * 31  # Binomial(25,000, 1 / 25)


def statistics(boxes: np.ndarray) -> np.ndarray:
    """Means and standard deviations of top, left, height, width and the area of (N, 4)."""
    area = boxes[:, 2] * boxes[:, 3]
    columns = np.column_stack([boxes, area])
    return np.concatenate([columns.mean(axis=0), columns.std(axis=0)])


def test_boxes_are_distributed_as_those_of_torchvision() -> None:
    torch.manual_seed(0)
    count, image = 4000, torch.empty(3, 64, 64)
    crops = np.array(
        [
            RandomResizedCrop.get_params(image, list(CROP_SCALE), list(CROP_RATIO))
            for _ in range(count)
        ],
        dtype=float,
    )
    erased = []
    while len(erased) < count:
        top, left, height, width, _ = RandomErasing.get_params(image, ERASING_SCALE, ERASING_RATIO)
        erased.append((top, left, height, width))
    many = torch.empty(count, 3, 64, 64)
    for seed, (wanted, scale, ratio) in enumerate(
        [(crops, CROP_SCALE, CROP_RATIO), (np.array(erased, float), ERASING_SCALE, ERASING_RATIO)]
    ):
        boxes = draw_boxes(many, scale, ratio, generator=generator(seed))
        found = np.stack([side.numpy() for side in boxes], axis=1)
        # The mean of 4,000 draws deviates by 1.6 % of their standard deviation; four times that is
        # allowed.
        difference = np.abs(statistics(found) - statistics(wanted))
        spread = np.tile(statistics(wanted)[5:], 2)
        assert (difference < 4 * np.sqrt(2) * spread / np.sqrt(count)).all()


@pytest.mark.parametrize(("fallback", "sides"), [("whole", (10, 100)), ("empty", (0, 0))])
def test_the_fallback_when_no_box_fits(fallback: str, sides: tuple[int, int]) -> None:
    boxes = draw_boxes(
        torch.empty(50, 3, 10, 100),
        (0.9, 1.0),
        (1.0, 1.01),
        generator=generator(),
        fallback=fallback,  # type: ignore[arg-type]
    )
    assert boxes.height.tolist() == [sides[0]] * 50
    assert boxes.width.tolist() == [sides[1]] * 50


def test_erasing_is_torchvisions_with_zero() -> None:
    images = torch.randn(20, 3, 12, 15, generator=generator())
    boxes = draw_boxes(
        images, ERASING_SCALE, ERASING_RATIO, generator=generator(1), fallback="empty"
    )
    chosen = torch.arange(20) % 3 != 0
    found = erase(images, boxes, chosen)
    for index, image in enumerate(images):
        top, left, height, width = (int(side[index]) for side in boxes)
        zero = torch.zeros(())
        wanted = reference.erase(image, top, left, height, width, zero) if chosen[index] else image
        assert torch.equal(found[index], wanted)


def test_a_box_mask_has_the_area_of_its_box() -> None:
    boxes = Boxes(
        *(torch.tensor(side) for side in ([0.0, 2.0], [1.0, 0.0], [3.0, 0.0], [4.0, 5.0]))
    )
    mask = box_mask(boxes, height=6, width=7)
    assert mask.shape == (2, 1, 6, 7)
    assert mask.sum(dim=(1, 2, 3)).tolist() == [12, 0]
    assert mask[0, 0, :3, 1:5].all()
