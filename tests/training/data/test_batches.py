"""Batches: order, sharding, streaming, waiting."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.base.errors import UserError
from training.data import rows_to_device as feeds
from training.data.batches import Batches, epoch_order, partner_rows

CPU = torch.device("cpu")
COUNT = 53


@pytest.fixture
def arrays(tmp_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A read-only map of images that carry their own row number, and labels ten times that."""
    rows = np.arange(COUNT)
    images = np.broadcast_to(rows[:, None, None, None], (COUNT, 4, 4, 3)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    return np.load(tmp_path / "images.npy", mmap_mode="r"), 10 * rows


def rows_of(
    arrays: tuple[np.ndarray, np.ndarray],
    *,
    epoch: int = 0,
    first: int = 0,
    device: torch.device = CPU,
    **options: Any,
) -> list[list[int]]:
    """Row numbers of each batch of an epoch; its images and labels must be those of the rows."""
    batches = Batches(*arrays, device=device, **{"batch_size": 8, "seed": 0, **options})
    found = []
    for images, labels, numbers, partners in batches.epoch(epoch, first=first):
        assert partners is None
        assert images.dtype == torch.uint8
        assert labels.dtype == numbers.dtype == torch.int64
        assert images.device.type == labels.device.type == device.type
        assert images.shape[1:] == (4, 4, 3)
        rows = images[:, 0, 0, 0].long()
        assert (images == rows[:, None, None, None]).all()
        assert torch.equal(labels, 10 * rows)
        assert torch.equal(numbers, rows)
        found.append(rows.tolist())
    assert len(found) == len(batches) - first
    return found


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


def test_an_epoch_has_each_image_at_most_once_and_whole_batches_only(arrays: Any) -> None:
    batches = rows_of(arrays)
    assert [len(batch) for batch in batches] == [8] * 6
    assert len(set(flat(batches))) == 48


def test_seed_and_epoch_decide_the_order(arrays: Any) -> None:
    orders = [
        flat(rows_of(arrays, seed=seed, epoch=epoch))
        for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3


def test_the_order_is_the_same_on_every_machine() -> None:
    """Resumed runs and other processes must draw the same numbers: they must never change."""
    assert epoch_order(10, seed=0, epoch=0).tolist() == [4, 6, 2, 7, 3, 5, 9, 0, 8, 1]


def test_two_ranks_see_what_one_process_with_the_double_batch_sees(arrays: Any) -> None:
    alone = rows_of(arrays, batch_size=8)
    ranks = [rows_of(arrays, batch_size=4, rank=rank, world_size=2) for rank in (0, 1)]
    assert [first + second for first, second in zip(*ranks, strict=True)] == alone


def test_three_ranks_share_nothing(arrays: Any) -> None:
    ranks = [flat(rows_of(arrays, batch_size=4, rank=rank, world_size=3)) for rank in range(3)]
    assert [len(rank) for rank in ranks] == [16] * 3
    assert len(set(flat(ranks))) == 48


def test_a_subset_is_all_that_is_seen(arrays: Any) -> None:
    subset = np.arange(1, COUNT, 2)
    rows = flat(rows_of(arrays, subset=subset, batch_size=13))
    assert sorted(rows) == subset.tolist()


@pytest.mark.parametrize("options", [{}, {"batch_size": 5}, {"rank": 1, "world_size": 2}])
def test_streaming_gives_the_same_batches(arrays: Any, options: dict[str, Any]) -> None:
    for epoch in range(3):
        resident = rows_of(arrays, epoch=epoch, resident=True, **options)
        assert rows_of(arrays, epoch=epoch, resident=False, **options) == resident


def test_partners_are_other_images_of_the_class() -> None:
    labels = np.array([0, 1, 0, 2, 1, 0, 1, 1, 0, 0])
    rows = np.array([[0, 1, 2, 4], [5, 6, 3, 9]])
    partners = partner_rows(rows, labels, seed=0, epoch=0)
    assert partners.shape == rows.shape
    assert np.array_equal(labels[partners], labels[rows])
    alone = rows == 3
    assert np.array_equal(partners == rows, alone)
    assert set(partners.ravel()) <= set(rows.ravel())
    assert not np.array_equal(partners, partner_rows(rows, labels, seed=0, epoch=1))


@pytest.mark.parametrize("resident", [True, False])
def test_partners_come_beside_the_images(arrays: Any, resident: bool) -> None:
    """Of the class, and images, labels and rows are what they are without partners."""
    images, _ = arrays
    labels = np.arange(COUNT) % 4
    options: dict[str, Any] = {"batch_size": 8, "device": CPU, "seed": 0, "resident": resident}
    alone = [batch.rows.tolist() for batch in Batches(images, labels, **options).epoch(1)]
    found = []
    for batch in Batches(images, labels, partners=True, **options).epoch(1):
        assert batch.partners is not None
        assert torch.equal(batch.images[:, 0, 0, 0].long(), batch.rows)
        partners = batch.partners[:, 0, 0, 0].long()
        assert torch.equal(partners % 4, batch.labels)
        assert torch.equal(batch.rows % 4, batch.labels)
        assert (partners != batch.rows).all()
        found.append(batch.rows.tolist())
    assert found == alone


@pytest.mark.parametrize("resident", [True, False])
def test_an_epoch_can_start_in_its_middle(arrays: Any, resident: bool) -> None:
    whole = rows_of(arrays, epoch=2)
    assert rows_of(arrays, epoch=2, first=4, resident=resident) == whole[4:]
    assert rows_of(arrays, epoch=2, first=6, resident=resident) == []


def test_a_streamed_batch_stays_valid_until_the_next_is_asked_for(
    arrays: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows_of(arrays, batch_size=2, resident=True)
    filled = [threading.Event() for _ in expected]
    unfilled = iter(filled)
    real = feeds._Slot.send

    def send(slot: Any) -> None:
        real(slot)
        next(unfilled).set()

    monkeypatch.setattr(feeds._Slot, "send", send)
    batches = Batches(*arrays, batch_size=2, device=CPU, seed=0, resident=False)
    for step, (images, labels, *_) in enumerate(batches.epoch(0)):
        last = min(step + feeds._BUFFERS, len(expected)) - 1
        assert filled[last].wait(timeout=30)  # every other buffer is filled
        time.sleep(0.005)  # for a thread that would fill this one, too
        assert images[:, 0, 0, 0].tolist() == expected[step]
        assert labels.tolist() == [10 * row for row in expected[step]]


def test_the_next_batches_are_gathered_meanwhile(
    arrays: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered: set[int] = set()
    two_ahead = threading.Event()
    real = feeds.StreamedFeed._gather

    def gather(feed: Any, chosen: np.ndarray, slot: Any, part: np.ndarray) -> None:
        real(feed, chosen, slot, part)
        gathered.add(int(chosen[0]))
        if len(gathered) == 3:
            two_ahead.set()

    monkeypatch.setattr(feeds.StreamedFeed, "_gather", gather)
    batches = Batches(*arrays, batch_size=2, device=CPU, seed=0, resident=False)
    epoch = batches.epoch(0)
    next(epoch)
    assert two_ahead.wait(timeout=30)
    epoch.close()


def test_leaving_an_epoch_early_ends_the_thread(arrays: Any) -> None:
    batches = Batches(*arrays, batch_size=2, device=CPU, seed=0, resident=False)
    expected = rows_of(arrays, batch_size=2)
    for _ in range(3):
        epoch = batches.epoch(0)
        first = next(epoch).images
        assert first[:, 0, 0, 0].tolist() == expected[0]
        epoch.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "batches"]


def test_an_error_of_the_thread_reaches_the_training_loop(
    arrays: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(feeds.StreamedFeed, "_gather", fail)
    batches = Batches(*arrays, batch_size=2, device=CPU, seed=0, resident=False)
    with pytest.raises(OSError, match="Input/output error"):
        next(batches.epoch(0))


class SlowFeed:
    def batches(self, rows: np.ndarray) -> Any:
        for _ in rows:
            time.sleep(0.02)
            yield torch.zeros(1), torch.zeros(1, dtype=torch.int64)


def test_waiting_is_measured_and_work_is_not(arrays: Any) -> None:
    batches = Batches(*arrays, batch_size=10, device=CPU, seed=0)
    batches._feed = SlowFeed()
    start = time.perf_counter()
    for _ in batches.epoch(0):
        time.sleep(0.05)
    elapsed = time.perf_counter() - start
    assert 5 * 0.02 <= batches.wait_seconds <= elapsed - 5 * 0.05
    start = time.perf_counter()
    for _ in batches.epoch(1, first=4):
        pass
    assert batches.wait_seconds <= time.perf_counter() - start  # of the last epoch only


def test_batches_larger_than_the_data_are_refused(arrays: Any) -> None:
    for options in ({"batch_size": 54}, {"batch_size": 27, "world_size": 2}, {"batch_size": 0}):
        with pytest.raises(UserError, match="does not fit 53 training images; name one from 2 to"):
            rows_of(arrays, **options)
    with pytest.raises(UserError, match=r"4 in each of 40 processes .* 53 .*images; add images$"):
        rows_of(arrays, batch_size=4, world_size=40)


def test_arrays_too_large_for_the_gpu_are_streamed(
    arrays: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, _ = arrays
    assert feeds.fits(images, CPU)
    for free, fit in ((images.nbytes * 3, True), (images.nbytes * 2, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 2 * free))
        assert feeds.fits(images, torch.device("cuda")) == fit


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("resident", [True, False])
def test_batches_on_the_gpu_are_those_of_the_cpu(arrays: Any, resident: bool) -> None:
    device = torch.device("cuda", 0)
    for epoch in range(3):
        found = rows_of(arrays, epoch=epoch, device=device, resident=resident)
        assert found == rows_of(arrays, epoch=epoch)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_slow_step_on_the_gpu_keeps_its_batch(arrays: Any) -> None:
    """Work that is queued on a batch reads that batch, even if the thread is far ahead."""
    batches = Batches(*arrays, batch_size=2, device=torch.device("cuda"), seed=0, resident=False)
    seen = []
    for images, *_ in batches.epoch(0):
        torch.cuda._sleep(10_000_000)
        seen.append(images[:, 0, 0, 0].clone())
    assert [rows.tolist() for rows in seen] == rows_of(arrays, batch_size=2)
