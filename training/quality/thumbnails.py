"""What is compared of each image: its coarse structure, two thumbnails, and how much it shows.

The structure is the lowest frequencies of the grey picture, as in the perceptual hash pHash
(Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010), but as numbers
rather than bits. Each frequency is weighted by its height, because the spectra of photographs fall
with it (Field, 1987). The numbers are scaled to length 1, so that brightness and contrast do not
count. A mirrored picture has the same numbers, and only those of odd horizontal frequency have the
other sign: even and odd ones are kept apart, so that one pass compares with both.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime.base.resources import usable_cores

_SIDE = 32  # pixels of the picture that the structure is made of
_FREQUENCIES = 10  # in both directions together
_GREY_SIDE = 16
_COLOUR_SIDE = 8
_CHUNK = 256
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as in JPEG

_DOWN, _ACROSS = np.nonzero(
    np.add.outer(np.arange(_FREQUENCIES), np.arange(_FREQUENCIES)) < _FREQUENCIES
)
_DOWN, _ACROSS = _DOWN[1:], _ACROSS[1:]  # the first one is the brightness
_EVEN = _ACROSS % 2 == 0
NUM_EVEN, NUM_ODD = int(_EVEN.sum()), int((~_EVEN).sum())


@dataclass(frozen=True)
class Thumbnails:
    """What is compared of N images.

    Attributes:
        even: float32 (N, 29), the structure that a mirrored picture shares.
        odd: float32 (N, 25), the structure that has the other sign in a mirrored picture. The
            squares of both sum up to 1, or to 0 in a picture of one colour.
        grey: uint8 (N, 16, 16).
        colour: uint8 (N, 8, 8, 3).
        span: uint8 (N,), how far apart the darkest and the brightest pixel of the 32 x 32 picture
            are, in the channel where that is most. It is 0 in a picture of one colour.
    """

    even: NDArray[np.float32]
    odd: NDArray[np.float32]
    grey: NDArray[np.uint8]
    colour: NDArray[np.uint8]
    span: NDArray[np.uint8]


def empty_thumbnails(count: int) -> Thumbnails:
    """Room for the thumbnails of `count` images: about 700 bytes each."""
    return Thumbnails(
        even=np.zeros((count, NUM_EVEN), np.float32),
        odd=np.zeros((count, NUM_ODD), np.float32),
        grey=np.zeros((count, _GREY_SIDE, _GREY_SIDE), np.uint8),
        colour=np.zeros((count, _COLOUR_SIDE, _COLOUR_SIDE, 3), np.uint8),
        span=np.zeros(count, np.uint8),
    )


def fill_thumbnails(
    thumbnails: Thumbnails,
    images: NDArray[np.uint8],
    *,
    first: int = 0,
    zoom: float = 1.0,
    places: NDArray[np.int64] | None = None,
) -> Iterator[int]:
    """Describes `images` in the rows from `first` on, and yields how many images each step did.

    Args:
        thumbnails: are filled.
        images: uint8 (N, H, W, 3), possibly a memory map: it is read chunk by chunk.
        first: the row of the first image.
        zoom: the share of height and width at the centre that is looked at.
        places: the part of each image that is looked at instead, int64 (N, 4): left, top, right and
            bottom in pixels.
    """

    def describe(start: int) -> int:
        chunk = images[start : start + _CHUNK]
        parts: list[NDArray[np.uint8]] = list(chunk)
        if places is not None:
            boxes = zip(parts, places[start : start + _CHUNK].tolist(), strict=True)
            parts = [image[top:bottom, left:right] for image, (left, top, right, bottom) in boxes]
        small = np.stack([_small(image, zoom) for image in parts])
        rows = slice(first + start, first + start + len(chunk))
        thumbnails.even[rows], thumbnails.odd[rows] = _structure(small @ _LUMA)
        grey = _block_means((small @ _LUMA)[..., None], _GREY_SIDE)[..., 0]
        thumbnails.grey[rows] = np.rint(grey).astype(np.uint8)
        thumbnails.colour[rows] = np.rint(_block_means(small, _COLOUR_SIDE)).astype(np.uint8)
        thumbnails.span[rows] = np.ptp(small, axis=(1, 2)).max(axis=1).astype(np.uint8)
        return len(chunk)

    with ThreadPoolExecutor(usable_cores()) as pool:
        yield from pool.map(describe, range(0, len(images), _CHUNK))


def _small(image: NDArray[np.uint8], zoom: float) -> NDArray[np.float32]:
    """The part of the picture that is looked at, resized: float32 (32, 32, 3)."""
    height, width = image.shape[:2]
    if (height, width) == (_SIDE, _SIDE) and zoom == 1:
        return image.astype(np.float32)
    left, top = (1 - zoom) / 2 * width, (1 - zoom) / 2 * height
    box = (left, top, width - left, height - top)
    picture = Image.fromarray(np.ascontiguousarray(image))
    small = picture.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, box=box)
    return np.asarray(small).astype(np.float32)


def _structure(grey: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The even and the odd part of the structure of float32 (N, 32, 32)."""
    spectrum = (_COSINES @ grey @ _COSINES.T)[:, _DOWN, _ACROSS] * np.hypot(_DOWN, _ACROSS)
    length = np.sqrt((spectrum**2).sum(axis=1, keepdims=True))
    scaled = (spectrum / np.maximum(length, 1e-3)).astype(np.float32)
    return scaled[:, _EVEN], scaled[:, ~_EVEN]


def _block_means(pictures: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Pictures (N, 32, 32, C) as (N, side, side, C)."""
    block = _SIDE // side
    count, channels = len(pictures), pictures.shape[-1]
    blocks = pictures.reshape(count, side, block, side, block, channels)
    means: NDArray[np.float32] = blocks.mean(axis=(2, 4))
    return means


def _cosine_transform() -> NDArray[np.float32]:
    """The lowest rows of the orthonormal DCT-II: float32 (10, 32)."""
    places = (np.arange(_SIDE) + 0.5) * np.pi / _SIDE
    rows = np.cos(np.outer(np.arange(_FREQUENCIES), places)) * np.sqrt(2 / _SIDE)
    rows[0] /= np.sqrt(2)
    cosines: NDArray[np.float32] = rows.astype(np.float32)
    return cosines


_COSINES = _cosine_transform()
