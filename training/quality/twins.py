"""Which images of a data set repeat images of another split or of another class."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.quality.exact_twins import twins_in
from training.quality.near_twins import Pairs, near_pairs
from training.quality.thumbnails import Thumbnails

TRAIN, VALIDATION, TEST = SPLITS = (0, 1, 2)
NONE = -1


@dataclass(frozen=True)
class Twins:
    """The duplicates of N images. Of many near duplicates, the nearest one is kept.

    Attributes:
        splits: int64 (N,), TRAIN, VALIDATION or TEST.
        labels: int64 (N,).
        groups: int64 (N,): exact duplicates have the same number.
        near: int64 (N, 4): the near duplicate in each split that is not the image's own, and in
            another class. NONE where there is none. Exact duplicates are not among them.
        distance: float32 (N, 4): how far those are, in levels of grey; infinite for NONE.
    """

    splits: NDArray[np.int64]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    near: NDArray[np.int64]
    distance: NDArray[np.float32]

    def exact_in(self, split: int, others: tuple[int, ...]) -> NDArray[np.bool_]:
        """Which images of `split` have an exact duplicate in the splits `others`: bool (N,)."""
        return twins_in(self.groups, self.splits == split, np.isin(self.splits, others))

    def near_in(self, split: int, others: tuple[int, ...]) -> NDArray[np.bool_]:
        """Which images of `split` have near and no exact duplicates in `others`: bool (N,)."""
        near = (self.near[:, list(others)] != NONE).any(axis=1) & (self.splits == split)
        found: NDArray[np.bool_] = near & ~self.exact_in(split, others)
        return found

    def pairs_across_classes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs of rows of one picture in two classes: the exact ones, and the near ones.

        Both are int64 (P, 2). Of more than two copies, each is paired with the first one, or with
        the nearest one.
        """
        order = np.lexsort((self.labels, self.groups))
        starts = np.flatnonzero(np.diff(self.groups[order], prepend=-1))
        first = np.repeat(order[starts], np.diff([*starts, len(order)]))
        differs = self.labels[first] != self.labels[order]
        exact = np.stack([first[differs], order[differs]], axis=1)
        rows = np.flatnonzero(self.near[:, -1] != NONE)
        near = np.sort(np.stack([rows, self.near[rows, -1]], axis=1), axis=1)
        return exact, np.unique(near, axis=0)

    def pictures_across_classes(self) -> int:
        """How many pictures lie in more than one class. Duplicates count as one picture."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        pairs = np.concatenate(self.pairs_across_classes())
        rows, places = np.unique(pairs, return_inverse=True)
        places = places.reshape(-1, 2)
        links = coo_array((np.ones(len(places)), places.T), shape=(len(rows), len(rows)))
        return int(connected_components(links, directed=False)[0]) if len(rows) else 0


def twins_without_near(
    splits: NDArray[np.int64], labels: NDArray[np.int64], groups: NDArray[np.int64]
) -> Twins:
    """The Twins of N images whose near duplicates are not looked for yet."""
    shape = (len(splits), len(SPLITS) + 1)
    near, distance = np.full(shape, NONE, np.int64), np.full(shape, np.inf, np.float32)
    return Twins(splits, labels, groups, near, distance)


def fill_near(twins: Twins, thumbnails: Thumbnails, blank: NDArray[np.bool_]) -> Iterator[int]:
    """Looks for near duplicates, and yields how many images each step has compared.

    Args:
        twins: of `twins_without_near`; they are filled.
        thumbnails: of the images.
        blank: bool (N,), pictures of one colour; they are left out.
    """
    parts = twins.labels * len(SPLITS) + twins.splits
    rows = np.flatnonzero(~blank)
    for images, pairs in near_pairs(thumbnails, rows, parts=parts, groups=twins.groups):
        _keep(twins, pairs)
        yield images


def _keep(twins: Twins, pairs: Pairs) -> None:
    """Keeps the pairs that are nearer than what is known."""
    first, second, distance = pairs
    for ours, theirs in ((first, second), (second, first)):
        split = twins.splits[theirs]
        _keep_nearest(twins, ours, theirs, distance, split, split != twins.splits[ours])
        column = np.full(len(ours), len(SPLITS))
        differs = twins.labels[ours] != twins.labels[theirs]
        _keep_nearest(twins, ours, theirs, distance, column, differs)


def _keep_nearest(
    twins: Twins,
    ours: NDArray[np.int64],
    theirs: NDArray[np.int64],
    distance: NDArray[np.float32],
    column: NDArray[np.int64],
    counts: NDArray[np.bool_],
) -> None:
    better = np.flatnonzero(counts & (distance < twins.distance[ours, column]))
    # Of several twins of one image the nearest comes last, and NumPy keeps what is written last.
    order = better[np.argsort(-distance[better], kind="stable")]
    twins.near[ours[order], column[order]] = theirs[order]
    twins.distance[ours[order], column[order]] = distance[order]
