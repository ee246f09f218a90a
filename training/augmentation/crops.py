"""Random windows of whole batches: padded crop, resized crop, flip, erasing."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_BOX_ATTEMPTS = 10


class Boxes(NamedTuple):
    """A box in each image: its sides in whole pixels, each as float32 (N,)."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


def padded_crop(
    images: Tensor,
    offsets: Tensor,
    flipped: Tensor,
    *,
    padding: int,
    fill: Tensor | None = None,
) -> Tensor:
    """Windows of the images' own size, after padding with one colour.

    Args:
        images: uint8 (N, H, W, 3).
        offsets: int64 (2, N), top and left of each window in its padded image, 0 to 2 * padding.
        flipped: bool (N,), which windows are mirrored.
        padding: in pixels, on each side.
        fill: the colour, uint8 (3,); None: black.
    """
    count, height, width, _ = images.shape
    padded = _padded(images, padding, fill) if padding else images
    steps = torch.arange(max(height, width), device=images.device)
    across = steps[:width]
    across = torch.where(flipped[:, None], width - 1 - across, across)
    rows = offsets[0][:, None] + steps[:height]
    columns = offsets[1][:, None] + across
    each = torch.arange(count, device=images.device)[:, None, None]
    return padded[each, rows[:, :, None], columns[:, None, :]]


def _padded(images: Tensor, padding: int, fill: Tensor | None) -> Tensor:
    sides = (0, 0, padding, padding, padding, padding)
    if fill is None:
        return F.pad(images, sides)
    return F.pad(images - fill, sides) + fill  # uint8 wraps around at 256, so this is exact


def resized_crop(images: Tensor, boxes: Boxes, flipped: Tensor, *, size: int) -> Tensor:
    """Each image's box, resampled to `size` pixels: float32 (N, size, size, 3), values 0 to 255.

    It is bilinear, without antialiasing. Aliasing begins where an image is shrunk to half. Here a
    box is shrunk to 7/8 at most, because stored images have sides of at most 8/7 of `size`.
    """
    height, width = images.shape[1:3]
    centres = (torch.arange(size, device=images.device) + 0.5) / size
    mirrored = torch.where(flipped[:, None], 1 - centres, centres)
    x = _sampling_grid(mirrored, boxes.left, boxes.width, width)
    y = _sampling_grid(centres, boxes.top, boxes.height, height)
    shape = (len(images), size, size)
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=-1)
    pixels = images.permute(0, 3, 1, 2).to(torch.float32)
    sampled = F.grid_sample(pixels, grid, mode="bilinear", align_corners=False)
    return sampled.permute(0, 2, 3, 1).contiguous()


def _sampling_grid(centres: Tensor, start: Tensor, length: Tensor, side: int) -> Tensor:
    """Positions in a box, 0 to 1, as coordinates of `grid_sample` between its pixels' centres."""
    pixel = start[:, None] + centres * length[:, None] - 0.5
    pixel = torch.minimum(pixel.clamp_min(0), (start + length - 1)[:, None])
    return torch.maximum(pixel, start[:, None]) * (2 / side) + (1 / side - 1)


def draw_boxes(
    images: Tensor,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    *,
    generator: torch.Generator,
    fallback: Literal["whole", "empty"] = "whole",
) -> Boxes:
    """A box for each image (N, C, H, W), drawn as torchvision's RandomResizedCrop does.

    Args:
        images: only their shape counts.
        scale: bounds of the box's share of the image's area, which is uniform between them.
        ratio: bounds of width by height, whose logarithm is uniform between them.
        generator: of all draws.
        fallback: the box of an image for which none of ten draws fits: all of it, or nothing.
    """
    count, (height, width) = len(images), images.shape[2:]
    draws = torch.rand((2, count, _BOX_ATTEMPTS), generator=generator, device=generator.device)
    area = (scale[0] + (scale[1] - scale[0]) * draws[0]) * (height * width)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * draws[1])
    widths, heights = torch.sqrt(area * aspect).round(), torch.sqrt(area / aspect).round()
    fits = (widths >= 1) & (heights >= 1) & (widths <= width) & (heights <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    found = fits.gather(1, first).squeeze(1)
    whole = fallback == "whole"
    box_height = torch.where(found, heights.gather(1, first).squeeze(1), height if whole else 0)
    box_width = torch.where(found, widths.gather(1, first).squeeze(1), width if whole else 0)
    top = torch.floor(draw_uniform(count, generator) * (height - box_height + 1))
    left = torch.floor(draw_uniform(count, generator) * (width - box_width + 1))
    return Boxes(top, left, box_height, box_width)


def erase(images: Tensor, boxes: Boxes, chosen: Tensor) -> Tensor:
    """Sets the boxes of the images that are `chosen`, bool (N,), to 0: the mean of the data."""
    inside = box_mask(boxes, height=images.shape[2], width=images.shape[3])
    # `where` keeps channels last, `masked_fill` with a broadcast mask does not.
    return torch.where(inside & chosen[:, None, None, None], 0.0, images)


def box_mask(boxes: Boxes, *, height: int, width: int) -> Tensor:
    """Whether a pixel is inside its image's box, as bool (N, 1, height, width)."""
    steps = torch.arange(max(height, width), device=boxes.top.device)
    y, x = steps[:height], steps[:width]
    top, left, tall, wide = (side[:, None] for side in boxes)
    rows, columns = (y >= top) & (y < top + tall), (x >= left) & (x < left + wide)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def draw_uniform(count: int, generator: torch.Generator) -> Tensor:
    """Float32 (count,) in [0, 1), on the generator's device."""
    return torch.rand(count, generator=generator, device=generator.device)
