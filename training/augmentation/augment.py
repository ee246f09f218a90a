"""Augmentation of whole batches on the device: uint8 (N, H, W, 3) in, normalised float32 out.

Every image draws its own crop, flip, erased box and share of its mixing partner. All draws come
from one generator. No shape and no branch depends on a drawn value, so a step with augmentation can
be captured as one CUDA graph (with which the generator must be registered). Functions that draw are
named `draw_...`; the others are pure.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from runtime.base.errors import UserError
from runtime.model.card import Fit, InputSpec
from training.augmentation.crops import draw_boxes, draw_uniform, erase, padded_crop, resized_crop
from training.augmentation.mixing import beta_quantiles, draw_cutmix, draw_mixup, mix

Crop = Literal["none", "pad", "resized"]

# torchvision's defaults for RandomResizedCrop and RandomErasing.
CROP_SCALE, CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
# Of images that show the whole picture. What fills a tenth of the width at an edge is then out of
# sight in 7 % of the crops, and not in 58 % as with torchvision's default (test_fits.py).
WHOLE_PICTURE_SCALE = 0.8
ERASING_SCALE, ERASING_RATIO = (0.02, 0.33), (0.3, 3.3)
FLIP_PROBABILITY = 0.5
CUTMIX_PROBABILITY = 0.5  # with mixup on as well


@dataclass(eq=False, kw_only=True)
class Augmentation:
    """What happens to a training batch; the values are the recipe's.

    Attributes:
        input: what evaluation does to an image; its size, mean and std are used here.
        device: where the images are.
        crop: "pad" (a random window, after padding with black, or with the colour of the bars of a
            letterbox), "resized" (a random resized crop of
            square images, which may be larger than the input) or "none".
        crop_scale: of "resized", the smallest share of an image's area.
        padding: of "pad", in pixels.
        flip: whether half of the images are mirrored.
        erasing: the probability that a box of an image is erased; 0: never.
        mixup: the alpha of Beta(alpha, alpha); 0: no mixup.
        cutmix: the same for CutMix. If both are on, each image draws one of the two.
        mix_share: float32 scalar on the device, the probability that an image is mixed. Its value
            may change from step to step. None: all are.

    Raises:
        UserError: if one of the numbers is out of range.
    """

    input: InputSpec
    device: torch.device
    crop: Crop = "none"
    crop_scale: float = CROP_SCALE[0]
    padding: int = 4
    flip: bool = True
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_share: Tensor | None = None
    fill: Tensor | None = field(init=False, default=None)
    mean: Tensor = field(init=False)
    std: Tensor = field(init=False)
    mixup_quantiles: Tensor = field(init=False)
    cutmix_quantiles: Tensor = field(init=False)

    def __post_init__(self) -> None:
        if self.padding < 0 or not 0 <= self.erasing <= 1 or min(self.mixup, self.cutmix) < 0:
            raise UserError(
                f"padding {self.padding}, erasing {self.erasing}, mixup {self.mixup}, cutmix "
                f"{self.cutmix}: expected none below 0 and erasing, a probability, at most 1"
            )
        if self.input.fit == "letterbox":
            self.fill = torch.tensor(self.input.fill, dtype=torch.uint8, device=self.device)
        self.mean, self.std = channel_statistics(self.input, self.device)
        self.mixup_quantiles = beta_quantiles(self.mixup, self.device)
        self.cutmix_quantiles = beta_quantiles(self.cutmix, self.device)

    def augment(
        self, images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Augments uint8 images (N, H, W, 3) with int64 labels (N,), all on `device`.

        Returns:
            Images, float32 (N, 3, size, size), channels last; and the unchanged labels. With mixup
            or CutMix, instead of the labels, float32 (N, num_classes), whose rows sum to one.

        Raises:
            UserError: if the images do not have the input's size, and `crop` is not "resized".
        """
        pixels = self._crop(images, generator)
        pixels = normalise(pixels, self.mean, self.std)
        if self.erasing:
            boxes = draw_boxes(
                pixels, ERASING_SCALE, ERASING_RATIO, generator=generator, fallback="empty"
            )
            chosen = draw_uniform(len(images), generator) < self.erasing
            pixels = erase(pixels, boxes, chosen)
        if not (self.mixup or self.cutmix):
            return pixels, labels
        keep = self._draw_keep(pixels, generator)
        if self.mix_share is not None:
            taken = draw_uniform(len(images), generator) < self.mix_share
            keep = torch.where(taken[:, None, None, None], keep, 1.0)
        return mix(pixels, labels, keep, num_classes=num_classes)

    def _crop(self, images: Tensor, generator: torch.Generator) -> Tensor:
        size = self.input.size
        if self.crop != "resized" and images.shape[1:3] != (size, size):
            raise UserError(
                f"crop {self.crop!r} needs images of {size} px and got {tuple(images.shape[1:3])}; "
                "use crop 'resized'"
            )
        count = len(images)
        flipped = draw_uniform(count, generator) < (FLIP_PROBABILITY if self.flip else 0.0)
        if self.crop == "resized":
            boxes = draw_boxes(
                images.permute(0, 3, 1, 2),
                (self.crop_scale, CROP_SCALE[1]),
                CROP_RATIO,
                generator=generator,
            )
            return resized_crop(images, boxes, flipped, size=size)
        padding = self.padding if self.crop == "pad" else 0
        offsets = torch.randint(
            2 * padding + 1, (2, count), generator=generator, device=generator.device
        )
        return padded_crop(images, offsets, flipped, padding=padding, fill=self.fill)

    def _draw_keep(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if not self.cutmix:
            return draw_mixup(images, self.mixup_quantiles, generator)
        boxed = draw_cutmix(images, self.cutmix_quantiles, generator)
        if not self.mixup:
            return boxed
        flat = draw_mixup(images, self.mixup_quantiles, generator)
        cut = draw_uniform(len(images), generator) < CUTMIX_PROBABILITY
        return torch.where(cut[:, None, None, None], boxed, flat)


def smallest_crop(fit: Fit) -> float:
    """The smallest share of an image's area in a resized crop, where the recipe names none."""
    return CROP_SCALE[0] if fit == "crop" else WHOLE_PICTURE_SCALE


def channel_statistics(spec: InputSpec, device: torch.device) -> tuple[Tensor, Tensor]:
    """The input's mean and standard deviation, each as float32 (3,) on `device`."""
    mean = torch.tensor(spec.mean, dtype=torch.float32, device=device)
    return mean, torch.tensor(spec.std, dtype=torch.float32, device=device)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Images (N, H, W, 3) with values 0 to 255 become normalised float32 (N, 3, H, W).

    In memory, the channels are last.
    """
    return ((images - mean * 255) / (std * 255)).permute(0, 3, 1, 2)
