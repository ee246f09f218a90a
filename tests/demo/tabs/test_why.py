"""How a heat map is drawn and told in a sentence."""

import numpy as np

from demo.service.occlusion import GRID, HeatMap
from demo.tabs.why import Explanation, _sentence, overlay


def test_the_overlay_is_orange_for_and_blue_against_and_clear_between() -> None:
    cells = np.zeros((GRID, GRID), np.float32)
    cells[2:5, 2:5], cells[9:12, 9:12] = 2.0, -2.0
    pixels = np.asarray(overlay(cells)).astype(int)
    scale = len(pixels) / GRID
    red, _, blue, alpha = pixels[int(3.5 * scale), int(3.5 * scale)]
    assert red > blue
    assert alpha > 180
    red, _, blue, alpha = pixels[int(10.5 * scale), int(10.5 * scale)]
    assert blue > red
    assert alpha > 180
    assert pixels[int(3.5 * scale), int(10.5 * scale), 3] == 0


def test_tiny_effects_are_not_blown_up() -> None:
    cells = np.full((GRID, GRID), 0.001, np.float32)
    assert np.asarray(overlay(cells))[..., 3].max() < 5


def test_what_covering_did_not_change_is_not_said_to_fall() -> None:
    cells = np.full((GRID, GRID), 3.0, np.float32)  # large in log-odds, of a label at 0.1 %

    def said(probability: float, lowest: float) -> str:
        found = HeatMap(index=9, probability=probability, lowest=lowest, cells=cells, runs=10)
        return _sentence(Explanation("9", found, seconds=1.0)).replace("\u202f", " ")

    assert said(0.00101, 0.00099).startswith("Covering hardly changes “9”: 0.1 % at the worst.")
    assert said(0.9, 0.1).startswith("The worst cover takes “9” from 90.0 % down to 10.0 %.")
