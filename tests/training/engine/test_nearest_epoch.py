"""The epoch that answers most like float32 is kept, and the start is one of them."""

import numpy as np
import pytest
import torch

from training.engine.nearest_epoch import NearestEpoch, divergence, judging_rows

EXACT = np.array([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5]], np.float32)
IMAGES = np.zeros((2, 4, 4, 3), np.uint8)


def judged(*errors: float) -> NearestEpoch:
    """Epochs 0, 1, ... whose first logit is wrong by so much."""
    nearest = NearestEpoch(IMAGES, lambda _images: EXACT)
    for epoch, error in enumerate(errors):
        found = EXACT + np.array([error, 0.0, 0.0], np.float32)
        nearest.judge(epoch, lambda _images, f=found: f, {"weight": torch.tensor(epoch)})
    return nearest


@pytest.mark.parametrize(
    ("errors", "epoch"), [((0.1, 0.2, 0.3), 0), ((0.3, 0.1, 0.2), 1), ((0.3, 0.3, 0.1), 2)]
)
def test_the_nearest_is_kept(errors: tuple[float, ...], epoch: int) -> None:
    nearest = judged(*errors)
    figures = nearest.figures()
    assert figures["chosen_epoch"] == epoch == int(nearest.student["weight"])
    assert figures["divergence"] == pytest.approx(judged(min(errors)).figures()["divergence"])
    assert figures["start_divergence"] == judged(errors[0]).figures()["divergence"]
    assert figures["judging_images"] == 2


def test_of_equal_epochs_the_first_is_kept() -> None:
    assert judged(0.2, 0.2).figures()["chosen_epoch"] == 0


def test_it_goes_on_where_it_was() -> None:
    again = judged()
    again.load_state_dict(judged(0.3, 0.1).state_dict())
    again.judge(2, lambda _images: EXACT + np.array([0.2, 0, 0], np.float32), {})
    assert again.state_dict() == judged(0.3, 0.1, 0.2).state_dict()


def test_the_divergence_is_that_of_torch() -> None:
    found = EXACT + np.array([[0.5, 0.0, 0.0], [0.0, -0.5, 1.0]], np.float32)
    exact, other = (torch.log_softmax(torch.from_numpy(each), 1) for each in (EXACT, found))
    expected = torch.nn.functional.kl_div(other, exact, reduction="batchmean", log_target=True)
    assert divergence(EXACT, found) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("held_out", "count", "words"), [(31, 100, "training"), (32, 32, "held out")]
)
def test_few_held_out_images_do_not_judge(held_out: int, count: int, words: str) -> None:
    rows, found = judging_rows(np.arange(100), np.arange(100, 100 + held_out))
    assert (len(rows), found) == (count, words)


def test_many_images_are_thinned_evenly() -> None:
    rows, _ = judging_rows(np.arange(5000), np.empty(0, np.int64))
    assert len(rows) <= 2048
    assert rows[-1] > 4990
