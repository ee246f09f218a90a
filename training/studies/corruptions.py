"""Image corruptions at severities 1 to 5, with the strengths of CIFAR-10-C and ImageNet-C.

Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019. The strengths are those of `create_c/make_cifar_c.py` and
`make_imagenet_c.py` of github.com/hendrycks/robustness. The operations are those of torchvision and
Pillow, so figures compare methods with each other, and not with tables of the original data sets.
"""

import io
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from training.data.dataset import MAX_PADDED_CROP_SIZE

SEVERITIES = (1, 2, 3, 4, 5)
_WHITE = 255
_BLUR_REACH = 4  # standard deviations that the kernel covers, as in the original (skimage)

_Strengths = tuple[float, float, float, float, float]

# noise: standard deviation, on a scale of 0 to 1. blur: standard deviation in pixels. brightness:
# what is added, on a scale of 0 to 1. contrast: the share that is left. jpeg: the quality.
_SMALL: Mapping[str, _Strengths] = {
    "noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "blur": (0.4, 0.6, 0.7, 0.8, 1.0),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "jpeg": (80, 65, 58, 50, 40),
}
_LARGE: Mapping[str, _Strengths] = {
    "noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "blur": (1, 2, 3, 4, 6),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    "jpeg": (25, 18, 15, 10, 7),
}
CORRUPTIONS = tuple(_SMALL)


def corrupt(
    images: NDArray[np.uint8], corruption: str, severity: int, *, seed: int
) -> NDArray[np.uint8]:
    """Corrupted copies of uint8 images (N, S, S, 3). All is done on the CPU.

    Up to 64 px the strengths are those of CIFAR-10-C, above those of ImageNet-C. (Tiny-ImageNet-C,
    of 64 px, is harsher than CIFAR-10-C.)

    Args:
        images: not changed.
        corruption: one of CORRUPTIONS.
        severity: 1 to 5.
        seed: of the noise, which depends on the seed and the images' shape alone.
    """
    table = _SMALL if images.shape[1] <= MAX_PADDED_CROP_SIZE else _LARGE
    strength = table[corruption][severity - 1]
    # A copy, because torch warns about arrays that are read-only maps.
    pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        corrupted = _OPERATIONS[corruption](pixels, strength)
    return corrupted.permute(0, 2, 3, 1).contiguous().numpy()


def _noise(pixels: Tensor, strength: float) -> Tensor:
    noisy: Tensor = F.gaussian_noise(pixels, sigma=strength)
    return noisy


def _blur(pixels: Tensor, strength: float) -> Tensor:
    # The border is mirrored, so the kernel may not reach further than the image.
    radius = min(math.ceil(_BLUR_REACH * strength), min(pixels.shape[2:]) - 1)
    side = 2 * radius + 1
    blurred: Tensor = F.gaussian_blur(pixels, [side, side], [strength, strength])
    return blurred


def _brightness(pixels: Tensor, strength: float) -> Tensor:
    # Added to the value of HSV, which is the largest channel. The others keep their ratio to it.
    # Black has no such ratio and becomes grey.
    scaled = pixels.float() / _WHITE
    value = scaled.amax(dim=1, keepdim=True)
    brighter = (value + strength).clamp(max=1)
    ratio = torch.where(value > 0, scaled / value.clamp(min=1 / _WHITE), 1.0)
    return (ratio * brighter * _WHITE).round().to(torch.uint8)


def _contrast(pixels: Tensor, strength: float) -> Tensor:
    flatter: Tensor = F.adjust_contrast(pixels, strength)
    return flatter


def _jpeg(pixels: Tensor, strength: float) -> Tensor:
    # With Pillow, as in the original: torchvision's own JPEG operation is deprecated.
    decoded = []
    for image in pixels.permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, format="JPEG", quality=int(strength))
        with Image.open(file) as reread:
            decoded.append(np.asarray(reread))
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2)


_OPERATIONS: Mapping[str, Callable[[Tensor, float], Tensor]] = {
    "noise": _noise,
    "blur": _blur,
    "brightness": _brightness,
    "contrast": _contrast,
    "jpeg": _jpeg,
}
