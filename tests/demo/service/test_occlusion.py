"""The heat map finds what an answer depends on, for a network that is known exactly."""

import numpy as np
import pytest
from numpy.typing import NDArray

from demo.service.occlusion import BATCH, GRID, PATCH, heat_map

SIZE = 56


class Corner:
    """A stand-in for a network: class 1 is the brightness of one square, class 0 the rest."""

    def __init__(self, rows: slice, columns: slice) -> None:
        self.rows, self.columns = rows, columns
        self.sizes: list[int] = []

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.sizes.append(len(images))
        lit = images[:, self.rows, self.columns].mean(axis=(1, 2, 3)) / 255
        logits = np.stack([np.zeros_like(lit), 6 * lit - 3], axis=1)
        exponentials = np.exp(logits)
        return (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)


def picture(rows: slice, columns: slice) -> NDArray[np.uint8]:
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[rows, columns] = 255
    return image


@pytest.mark.parametrize(("top", "left"), [(0, 0), (8, 40), (44, 44), (24, 24)])
def test_the_hottest_cell_lies_on_what_the_answer_depends_on(top: int, left: int) -> None:
    rows, columns = slice(top, top + 12), slice(left, left + 12)
    found = heat_map(Corner(rows, columns), picture(rows, columns), 1)
    cell = SIZE / GRID
    hottest = np.unravel_index(found.cells.argmax(), found.cells.shape)
    assert rows.start <= (hottest[0] + 0.5) * cell <= rows.stop
    assert columns.start <= (hottest[1] + 0.5) * cell <= columns.stop
    far = found.cells.copy()
    reach = int(PATCH + 12 / cell)
    r, c = int(top / cell), int(left / cell)
    far[max(0, r - reach) : r + reach, max(0, c - reach) : c + reach] = 0
    assert np.abs(far).max() == pytest.approx(0, abs=1e-5)
    assert found.lowest < 0.1 < 0.9 < found.probability


def test_what_speaks_against_the_answer_is_negative() -> None:
    rows = columns = slice(16, 28)
    found = heat_map(Corner(rows, columns), picture(rows, columns), 0)
    assert found.cells.min() < -1
    assert found.cells.max() == pytest.approx(0, abs=1e-5)


def test_every_cell_is_covered_equally_often_in_bounded_batches() -> None:
    network = Corner(slice(0, SIZE), slice(0, SIZE))
    reports: list[tuple[int, int]] = []
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    before = image.copy()
    found = heat_map(network, image, 1, progress=lambda *report: reports.append(report))
    patches = (GRID + PATCH - 1) ** 2
    assert found.runs == patches + 1 == sum(network.sizes)
    assert max(network.sizes) <= BATCH
    assert reports[-1] == (patches, patches)
    assert (image == before).all(), "the user's picture is not changed"


@pytest.mark.parametrize("size", [5, 14, 15, 32])
def test_any_size_of_input_will_do(size: int) -> None:
    network = Corner(slice(0, size), slice(0, size))
    found = heat_map(network, np.full((size, size, 3), 200, np.uint8), 1)
    assert found.cells.shape == (min(GRID, size),) * 2
    assert np.abs(found.cells).max() < 1e-4, "an even picture has nothing to cover"


def test_a_saturated_answer_gives_numbers_and_not_infinities() -> None:
    def certain(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.tile(np.array([0, 1], np.float32), (len(images), 1))

    found = heat_map(certain, np.zeros((SIZE, SIZE, 3), np.uint8), 1)
    assert (found.cells == 0).all()
