"""Which pixels of an image are kept: the input's geometry from the image size.

Small images of one fixed size (digits, CIFAR) are used whole. Photographs above 64 px are
evaluated as is usual for ImageNet: short side to 8/7 of the size, then the centre.
"""

from runtime.card import InputSpec
from runtime.errors import UserError

MIN_IMAGE_SIZE = 16
MAX_IMAGE_SIZE = 1024
# Up to here training pads and crops, above it cuts random resized crops.
MAX_PADDED_CROP_SIZE = 64

Channels = tuple[float, float, float]


def check_image_size(size: int) -> int:
    """Returns `size`; UserError outside 16..1024."""
    if not MIN_IMAGE_SIZE <= size <= MAX_IMAGE_SIZE:
        raise UserError(
            f"image size {size} is out of range; choose {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE}"
        )
    return size


def whole_input(size: int, *, mean: Channels, std: Channels) -> InputSpec:
    """The input of images that are used whole, at `size` pixels."""
    return InputSpec(size=size, resize=size, crop=size, mean=mean, std=std)
