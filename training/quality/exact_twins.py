"""Which images are exact duplicates: their decoded pictures have the same size and pixels."""

import zlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# A decoded picture: a check value of its pixels, and its size. The value is a CRC-32 of all pixels
# and a sum of some of them; both take a quarter of the time of a SHA-256. Two different pictures
# have one CRC with a chance of one in four billion. The sum tells those apart among the many pairs
# of pictures that have nothing in common.
PICTURE = np.dtype([("pixels", "<u8"), ("width", "<i4"), ("height", "<i4")])

_LOW_BITS = (1 << 32) - 1
_EVERY = 11  # words of eight bytes, of which one is summed up

Pictures = NDArray[np.void]

# In a picture of one colour, levels of a channel are not farther apart than this. JPEG and noise
# change them by some levels.
BLANK_SPAN = 7


def picture_of(image: Image.Image | NDArray[np.uint8]) -> tuple[int, int, int]:
    """The PICTURE of an RGB image: PIL's, or uint8 (H, W, 3)."""
    rgb = np.ascontiguousarray(image)
    words = rgb.reshape(-1)[: rgb.size // 8 * 8].view(np.uint64)[::_EVERY]
    total = int(words.sum())
    folded = (total ^ total >> 32) & _LOW_BITS
    return zlib.crc32(rgb.data) << 32 | folded, rgb.shape[1], rgb.shape[0]


def pictures_of(images: Sequence[Image.Image] | NDArray[np.uint8]) -> Pictures:
    """The PICTUREs (N,) of several images, for example of uint8 (N, H, W, 3)."""
    return np.array([picture_of(image) for image in images], dtype=PICTURE)


def exact_groups(pictures: Pictures, blank: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The number of each picture's group, int64 (N,): exact duplicates are in one group.

    Pictures of one colour repeat each other without being copies: each is a group of its own.
    """
    _, groups = np.unique(pictures, return_inverse=True)
    groups = groups.reshape(-1).astype(np.int64)
    return np.where(blank, len(pictures) + np.arange(len(pictures)), groups)


def repeated_groups(
    pictures: Pictures, image_of: Callable[[int], NDArray[np.uint8]]
) -> NDArray[np.int64]:
    """The same for pictures whose images are looked at only where a picture occurs again.

    Args:
        pictures: (N,). Those of size 0 could not be decoded, and repeat nothing.
        image_of: gives the image of a row, uint8 (H, W, 3).
    """
    _, places, counts = np.unique(pictures, return_inverse=True, return_counts=True)
    blank = pictures["width"] == 0
    for row in np.flatnonzero((counts[places.reshape(-1)] > 1) & ~blank):
        blank[row] = np.ptp(image_of(int(row)), axis=(0, 1)).max() <= BLANK_SPAN
    return exact_groups(pictures, blank)


def joined_groups(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers (N,) of the groups of which each is made of groups that have images in common."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    images = np.arange(len(first))
    columns = [np.unique(groups, return_inverse=True)[1].reshape(-1) for groups in (first, second)]
    ours, theirs = columns[0], columns[1] + len(images)
    links = coo_array((np.ones(len(images)), (ours, theirs)), shape=(2 * len(images),) * 2)
    numbers: NDArray[np.int64] = connected_components(links, directed=False)[1][ours]
    return numbers.astype(np.int64)


def twins_in(
    groups: NDArray[np.int64], inside: NDArray[np.bool_], among: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which images are `inside` and have an exact duplicate `among` others: bool (N,).

    Args:
        groups: int64 (N,), of `exact_groups`.
        inside: bool (N,).
        among: bool (N,), of other images than `inside`.
    """
    found: NDArray[np.bool_] = inside & np.isin(groups, groups[among])
    return found
