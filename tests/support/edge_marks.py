"""Wide pictures whose class is at an edge: ten colours of a mark at the left or the right end."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 40),
    "blue": (40, 60, 220),
    "yellow": (235, 220, 40),
    "orange": (240, 140, 20),
    "purple": (130, 30, 150),
    "cyan": (40, 210, 220),
    "pink": (250, 160, 200),
    "black": (10, 10, 10),
    "white": (250, 250, 250),
}
WIDTH, HEIGHT = 96, 32
MARK = 20  # pixels; the square at the centre shows the third that begins at pixel 32


def wide_picture(colour: tuple[int, int, int], generator: np.random.Generator) -> Image.Image:
    """A picture of 3:1: grey noise, with a mark of that colour at one end."""
    pixels = generator.normal(125, 25, (HEIGHT, WIDTH, 3))
    mark = generator.normal(colour, 12, (HEIGHT, MARK, 3))
    if generator.random() < 1 / 2:
        pixels[:, :MARK] = mark
    else:
        pixels[:, -MARK:] = mark
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def write_edge_marks(root: Path, *, train: int, test: int, seed: int = 0) -> Path:
    """Writes so many pictures of each class to `train/` and `test/` below `root`."""
    generator = np.random.default_rng(seed)
    for split, count in (("train", train), ("test", test)):
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                wide_picture(colour, generator).save(folder / f"{number:03}.png")
    return root
