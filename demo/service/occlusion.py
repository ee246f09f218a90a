"""Which spots of a picture an answer depends on, found by covering one patch after another.

This is occlusion (Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2014).
It needs only the answers of the deployed file, no gradient and no training framework, so it works
for quantised files too. The loss is measured in log-odds, because a probability near 1 hardly moves
even where the evidence changes much.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GRID = 14  # cells along one edge
PATCH = 3  # cells along one edge of a patch
BATCH = 32
_FLOOR = 1e-6  # below the resolution of a float32 probability near 1

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class HeatMap:
    """What covering a patch does to the probability of one class.

    Attributes:
        index: the class.
        probability: of the class for the whole image.
        lowest: the lowest probability under any patch.
        cells: float32 (grid, grid): the mean loss of log-odds over the patches that cover a cell.
            It is negative where covering the cell strengthens the answer.
        runs: how many images the network answered for this map.
    """

    index: int
    probability: float
    lowest: float
    cells: NDArray[np.float32]
    runs: int


def heat_map(
    run: Run, image: NDArray[np.uint8], index: int, *, progress: Progress | None = None
) -> HeatMap:
    """Covers `image` patch by patch and compares the answers.

    Patches overlap and reach over the edge, so that every cell is covered equally often. A patch is
    filled with the image's median colour, which is mostly its background. Grey or a blurred image
    would add ink where a drawing has none.

    Args:
        run: the network: probabilities (N, classes) of uint8 images (N, S, S, 3).
        image: uint8 (S, S, 3); it is not changed.
        index: the class whose probability is watched.
        progress: called with the number of answered patches and of all patches.
    """
    size = image.shape[0]
    grid = min(GRID, size)
    edges = np.linspace(0, size, grid + 1).round().astype(int)
    corners = range(1 - PATCH, grid)
    patches = [_patch(row, column, grid) for row in corners for column in corners]
    whole = float(run(image[None])[0, index])
    covered: list[float] = []
    for batch in _occluded(image, patches, edges):
        covered += run(batch)[:, index].tolist()
        if progress:
            progress(len(covered), len(patches))
    losses = _log_odds(np.array(whole)) - _log_odds(np.array(covered))
    total, hits = np.zeros((grid, grid)), np.zeros((grid, grid))
    for (rows, columns), loss in zip(patches, losses, strict=True):
        total[rows, columns] += loss
        hits[rows, columns] += 1
    return HeatMap(
        index=index,
        probability=whole,
        lowest=min(covered),
        cells=(total / hits).astype(np.float32),
        runs=len(patches) + 1,
    )


def _log_odds(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(probabilities, _FLOOR, 1 - _FLOOR)
    odds: NDArray[np.float64] = np.log(clipped / (1 - clipped))
    return odds


def _patch(row: int, column: int, grid: int) -> tuple[slice, slice]:
    """The cells of the patch whose first corner is (row, column), which may lie outside."""
    return (
        slice(max(row, 0), min(row + PATCH, grid)),
        slice(max(column, 0), min(column + PATCH, grid)),
    )


def _occluded(
    image: NDArray[np.uint8], patches: list[tuple[slice, slice]], edges: NDArray[np.int_]
) -> Iterator[NDArray[np.uint8]]:
    """Batches of `image`, each copy with one patch filled: uint8 (at most BATCH, S, S, 3)."""
    fill = np.median(image.reshape(-1, image.shape[2]), axis=0).astype(np.uint8)
    for start in range(0, len(patches), BATCH):
        part = patches[start : start + BATCH]
        batch = np.repeat(image[None], len(part), axis=0)
        for one, (rows, columns) in zip(batch, part, strict=True):
            box = (
                slice(edges[rows.start], edges[rows.stop]),
                slice(edges[columns.start], edges[columns.stop]),
            )
            one[box] = fill
        yield batch
