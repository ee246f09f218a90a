"""Draws images of each class for one side of a split; images of one group are drawn together.

A group is whatever must not lie on both sides: the pictures of one patient, of one burst, or copies
of one picture. Where no image has a group, the first ones of a random order are drawn.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Groups = NDArray[np.int64]
_Flags = NDArray[np.bool_]

_STARTS = 8  # random orders that are tried for groups with images of several classes
_MAX_SWAPS = 50
_MAX_COMPARED = 2_000_000  # numbers that one look for a swap may need
_IMPOSSIBLE = 1e9  # what a class costs that would be missing on one side


def draw(
    classes: Sequence[Groups],
    wanted: Sequence[int],
    permutation: Callable[[int, int], NDArray[np.int64]],
    *,
    generator: np.random.Generator,
    least: int = 1,
) -> list[_Flags | None]:
    """Which images of each class are drawn: as many as wanted, or as near as whole groups allow.

    Args:
        classes: for each class the group of each image. A number may occur in several classes.
        wanted: how many images of each class to draw.
        permutation: gives, for a class's position and a number n, a random order of 0 to n - 1.
        generator: draws among the groups that have images of several classes.
        least: how many images of each class are drawn at least. One at least is not drawn.

    Returns:
        For each class bool (N,): whether the image is drawn. None where the groups do not allow
        `least` images on the one side and one image on the other.
    """
    shared, table = _shared_groups(classes)
    taken = shared[_spread(classes, table, wanted, generator, least)]
    drawn: list[_Flags | None] = []
    for number, (groups, count) in enumerate(zip(classes, wanted, strict=True)):
        flags = np.isin(groups, taken)
        alone = np.flatnonzero(~np.isin(groups, shared))
        _, first, inverse = np.unique(groups[alone], return_index=True, return_inverse=True)
        # Groups are numbered as they come, so that images without groups keep their order.
        places = np.argsort(np.argsort(first))[inverse]
        order = permutation(number, len(first))
        sizes = np.bincount(places, minlength=len(first))[order]
        so_far = int(flags.sum())
        low, high = max(0, least - so_far), len(groups) - 1 - so_far
        chosen = _closest(sizes, count - so_far, low, high)
        if chosen is not None:
            flags[alone[np.isin(places, order[chosen])]] = True
        drawn.append(None if chosen is None else flags)
    return drawn


def _closest(sizes: NDArray[np.int64], target: int, low: int, high: int) -> list[int] | None:
    """Positions of groups whose sizes sum up to `target`, or as near to it as they can.

    The groups are taken from the front as far as possible. None if no sum is from low to high.
    """
    total = int(sizes.sum())
    high = min(high, total)
    if low > high:
        return None
    target = min(max(target, low), high)
    if total == len(sizes):
        return list(range(target))
    last = np.full(total + 1, -1, dtype=np.int64)  # the group that completes a sum first
    last[0] = len(sizes)
    for position, size in enumerate(sizes):
        if last[target] >= 0:
            break
        reached = last >= 0
        last[size:][reached[: total + 1 - size] & ~reached[size:]] = position
    sums = low + np.flatnonzero(last[low : high + 1] >= 0)
    if not len(sums):
        return None
    rest = int(sums[np.argmin(np.abs(sums - target))])
    chosen = []
    while rest:
        chosen.append(int(last[rest]))
        rest -= int(sizes[last[rest]])
    return chosen


def _shared_groups(classes: Sequence[Groups]) -> tuple[Groups, NDArray[np.int64]]:
    """The groups with images of several classes, and their images by class: int64 (G, K)."""
    named = [np.unique(groups, return_counts=True) for groups in classes]
    everything, owners = np.unique(
        np.concatenate([groups for groups, _ in named]), return_counts=True
    )
    shared = everything[owners > 1]
    table = np.zeros((len(shared), len(classes)), dtype=np.int64)
    for column, (groups, counts) in enumerate(named):
        ours = np.isin(groups, shared)
        table[np.searchsorted(shared, groups[ours]), column] = counts[ours]
    return shared, table


def _spread(
    classes: Sequence[Groups],
    table: NDArray[np.int64],
    wanted: Sequence[int],
    generator: np.random.Generator,
    least: int,
) -> _Flags:
    """Which of the shared groups (G,) to draw, so that each class gets about its share of them.

    An exact answer would take too long. Groups are added in random order as long as that helps,
    and then taken out, added or exchanged one at a time; the best of several starts is kept.
    """
    taken = np.zeros(len(table), dtype=bool)
    if not len(table):
        return taken
    sizes = np.array([len(groups) for groups in classes])
    inside = table.sum(axis=0)
    targets = np.asarray(wanted) * inside / sizes
    whole = inside == sizes  # classes without a group of their own

    def cost(drawn: NDArray[Any]) -> NDArray[np.float64]:
        """How far drawn images by class (..., K) are from what is wanted."""
        missing = whole & ((drawn < least) | (drawn == sizes))
        apart = ((drawn - targets) / np.maximum(wanted, 1)) ** 2
        total: NDArray[np.float64] = (apart + _IMPOSSIBLE * missing).sum(axis=-1)
        return total

    starts = [_one_start(table, generator.permutation(len(table)), cost) for _ in range(_STARTS)]
    best = min(starts, key=lambda flags: float(cost(table[flags].sum(axis=0))))
    return _with_swaps(best, table, cost)


_Cost = Callable[[NDArray[Any]], NDArray[np.float64]]


def _one_start(table: NDArray[np.int64], order: NDArray[np.int64], cost: _Cost) -> _Flags:
    taken = np.zeros(len(table), dtype=bool)
    drawn = np.zeros(table.shape[1], dtype=np.int64)
    for group in order:
        if cost(drawn + table[group]) < cost(drawn):
            taken[group] = True
            drawn = drawn + table[group]
    for _ in range(len(table)):
        costs = cost(drawn + np.where(taken, -1, 1)[:, None] * table)
        group = int(np.argmin(costs))
        if costs[group] >= cost(drawn):
            break
        drawn = drawn + (-table[group] if taken[group] else table[group])
        taken[group] = not taken[group]
    return taken


def _with_swaps(taken: _Flags, table: NDArray[np.int64], cost: _Cost) -> _Flags:
    """`taken` after exchanges of one group that is drawn for one that is not."""
    for _ in range(_MAX_SWAPS):
        ins, outs = np.flatnonzero(taken), np.flatnonzero(~taken)
        if not 0 < len(ins) * len(outs) * table.shape[1] <= _MAX_COMPARED:
            break
        drawn = table[taken].sum(axis=0)
        costs = cost(drawn - table[ins][:, None] + table[outs][None, :])
        place = np.unravel_index(int(np.argmin(costs)), costs.shape)
        if costs[place] >= cost(drawn):
            break
        taken = taken.copy()
        taken[ins[place[0]]], taken[outs[place[1]]] = False, True
    return taken
