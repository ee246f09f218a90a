"""Pictures to compare: each has structure of its own at all scales, as photographs have it."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def scenes(count: int, *, side: int = 96, seed: int = 0) -> NDArray[np.uint8]:
    """`count` different pictures: uint8 (N, side, side, 3)."""
    generator = np.random.default_rng(seed)
    pictures = np.zeros((count, side, side, 3))
    for cells in (2, 4, 8, 16, 32):
        for picture in pictures:
            noise = generator.uniform(0, 255, (cells, cells, 3)).astype(np.uint8)
            layer = Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)
            picture += np.asarray(layer) / cells
    low, high = pictures.min(axis=(1, 2, 3)), pictures.max(axis=(1, 2, 3))
    scaled = (pictures - low[:, None, None, None]) / (high - low)[:, None, None, None]
    return (255 * scaled).astype(np.uint8)
