"""Which images are near duplicates: the same picture, re-encoded, resized or mirrored.

Candidates come from SciPy's k-d tree: all images whose coarse structure is within a radius. Then
the thumbnails of each pair are compared, so that images of equal structure and other colours, or
of little contrast, are no duplicates. No pair within the radius is missed, unlike with the tables
of bits of a perceptual hash. Libraries were considered: ImageHash and imagededup compare
hashes in Python, one by one, and an approximate index such as faiss would be one more dependency.
"""

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.base.resources import usable_cores
from training.quality.thumbnails import Thumbnails

# Measured (docs/measured.md): JPEG at quality 50 keeps 0.98 even of images of 32 pixels.
_MIN_CORRELATION = 0.98
# The largest differences, root mean square, in levels of 255; and in parts of the contrast.
_MAX_GREY = 8.0
_MAX_COLOUR = 8.0
_MAX_SHARE_OF_CONTRAST = 0.4
_AXES = 16  # of 54: a tree is fast in few dimensions
_MAX_STEP = 512  # images whose neighbours are asked for at once
_MAX_NEIGHBOURS = 1_000_000  # of the images of one step: lists of them take the most memory
_CHECKED = 4096  # pairs whose thumbnails are compared at once


class Pairs(NamedTuple):
    """Near duplicates: rows `first` and `second`, int64 (P,), with `first` below `second`.

    `distance` is float32 (P,): the difference of the grey thumbnails, root mean square, in levels.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    distance: NDArray[np.float32]


def near_pairs(
    thumbnails: Thumbnails,
    rows: NDArray[np.int64],
    *,
    parts: NDArray[np.int64],
    groups: NDArray[np.int64],
) -> Iterator[tuple[int, Pairs]]:
    """Finds all near duplicates, and yields for each step how many images it did, and its pairs.

    Args:
        thumbnails: of N images.
        rows: int64, ascending, the images to compare.
        parts: int64 (N,). Images of one part are not compared with each other.
        groups: int64 (N,). Nor are those of one group, which are exact duplicates.
    """
    if not len(rows):
        return
    points = _points(thumbnails, rows)
    # Unit vectors x and y are |x - y|^2 = 2 - 2 x.y apart.
    radius = float(np.sqrt(2 - 2 * _MIN_CORRELATION))
    from scipy.spatial import KDTree  # so that `--version` does not wait for it

    tree = KDTree(points, leafsize=32)
    start, length = 0, 1
    while start < len(rows):
        step = points[start : start + length]
        near = tree.query_ball_point(step, radius, workers=usable_cores(), return_sorted=False)
        counts = [len(neighbours) for neighbours in near]
        ours = np.repeat(np.arange(start, start + len(step)), counts)
        theirs = np.fromiter(chain.from_iterable(near), np.int64, sum(counts))
        once = ours < theirs
        first, second = rows[ours[once]], rows[theirs[once]]
        apart = (parts[first] != parts[second]) & (groups[first] != groups[second])
        yield len(step), _checked(thumbnails, first[apart], second[apart])
        start += len(step)
        # The pictures of a film have thousands of neighbours, most others only themselves.
        length = min(_MAX_STEP, 2 * length, max(1, _MAX_NEIGHBOURS * len(step) // len(theirs)))


def _points(thumbnails: Thumbnails, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Points that are never farther apart than the structures of the images, mirrored or not.

    The structures with all their odd numbers made positive are such points. Of these the principal
    axes are kept, because a projection shortens distances, too.
    """
    points = np.concatenate([thumbnails.even[rows], np.abs(thumbnails.odd[rows])], axis=1)
    centred = points - points.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)  # by ascending variance
    projected: NDArray[np.float32] = centred @ axes[:, -_AXES:]
    return projected


def _checked(thumbnails: Thumbnails, first: NDArray[np.int64], second: NDArray[np.int64]) -> Pairs:
    """Those of the pairs that are near duplicates."""
    distance = np.empty(len(first), np.float32)
    for start in range(0, len(first), _CHECKED):
        part = slice(start, start + _CHECKED)
        distance[part] = _distances(thumbnails, first[part], second[part])
    near = np.isfinite(distance)
    return Pairs(first[near], second[near], distance[near])


def _distances(
    thumbnails: Thumbnails, first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.float32]:
    """How far the thumbnails of each pair are apart, in levels of grey; infinite if too far."""
    even = (thumbnails.even[first] * thumbnails.even[second]).sum(axis=1)
    odd = (thumbnails.odd[first] * thumbnails.odd[second]).sum(axis=1)
    grey = thumbnails.grey[first].astype(np.float32)
    other_grey = thumbnails.grey[second].astype(np.float32)
    contrast = np.sqrt(grey.std(axis=(1, 2)) * other_grey.std(axis=(1, 2)))
    allowed = np.minimum(_MAX_GREY, _MAX_SHARE_OF_CONTRAST * contrast)
    colour = thumbnails.colour[first].astype(np.float32)
    other_colour = thumbnails.colour[second].astype(np.float32)
    best = np.full(len(first), np.inf, np.float32)
    for across, sign in ((slice(None), 1), (slice(None, None, -1), -1)):  # as it is, and mirrored
        apart = np.sqrt(((grey - other_grey[:, :, across]) ** 2).mean(axis=(1, 2)))
        tint = np.sqrt(((colour - other_colour[:, :, across]) ** 2).mean(axis=(1, 2, 3)))
        fits = (even + sign * odd >= _MIN_CORRELATION) & (apart <= allowed) & (tint <= _MAX_COLOUR)
        best = np.where(fits, np.minimum(best, apart), best)
    return best
