"""Which pixels of an image are kept, and how they are normalised: the input from the image size."""

from dataclasses import dataclass

from runtime.base.errors import UserError
from runtime.model.card import InputSpec

MIN_IMAGE_SIZE = 16
MAX_IMAGE_SIZE = 1024
# Up to this size training pads and crops, above it cuts random resized crops.
MAX_PADDED_CROP_SIZE = 64

Channels = tuple[float, float, float]
IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Geometry:
    """The input of evaluation (and of every classifier), and how training images are stored."""

    input: InputSpec
    stored: InputSpec


def check_image_size(size: int) -> int:
    """Returns `size`; UserError outside 16..1024."""
    if not MIN_IMAGE_SIZE <= size <= MAX_IMAGE_SIZE:
        raise UserError(
            f"image size {size} is out of range; choose {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE}"
        )
    return size


def whole_images(size: int, *, mean: Channels, std: Channels) -> Geometry:
    """Images of one fixed size (digits, CIFAR), used whole in training and evaluation."""
    spec = InputSpec(size=size, resize=size, crop=size, mean=mean, std=std)
    return Geometry(input=spec, stored=spec)


def photographs(
    size: int, *, mean: Channels = IMAGENET_MEAN, std: Channels = IMAGENET_STD
) -> Geometry:
    """Photographs of any size; above 64 px with the margin that is usual for ImageNet.

    Evaluation brings the short side to 8/7 of the size (256 for 224) and cuts the centre. Training
    images are stored as the centred square of that short side: arrays need one shape, a random
    resized crop then sees the pixels at the density of evaluation, and 12,000 images at 224 px take
    2.4 GB. What a long image has beyond its centred square is not trained on.
    """
    if size <= MAX_PADDED_CROP_SIZE:
        return whole_images(size, mean=mean, std=std)
    resize = round(size * 8 / 7)
    return Geometry(
        input=InputSpec(size=size, resize=resize, crop=size, mean=mean, std=std),
        stored=InputSpec(size=resize, resize=resize, crop=resize, mean=mean, std=std),
    )
