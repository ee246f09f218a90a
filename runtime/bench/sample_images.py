"""Photograph-like JPEG files for measurements: smooth shapes with a camera's noise."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 640, 480
_BLOCK = 40  # pixels between two random colours
_NOISE = 6.0  # standard deviation, of 255
_QUALITY = 90


def sample_jpeg(seed: int, *, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """A JPEG of about 80 kB at 640x480; equal seeds give equal bytes."""
    rng = np.random.default_rng(seed)
    shape = (max(1, height // _BLOCK), max(1, width // _BLOCK), 3)
    colours = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
    smooth = np.asarray(colours.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    noisy = smooth + rng.normal(0, _NOISE, smooth.shape).astype(np.float32)
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def write_sample_jpegs(folder: Path, *, count: int, distinct: int = 20) -> list[Path]:
    """Writes `count` files with `distinct` different contents, and returns their paths."""
    contents = [sample_jpeg(seed) for seed in range(min(distinct, count))]
    paths = [folder / f"{index:05}.jpg" for index in range(count)]
    for index, path in enumerate(paths):
        path.write_bytes(contents[index % len(contents)])
    return paths
