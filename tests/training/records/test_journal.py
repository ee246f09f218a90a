"""The journal as TensorBoard reads it."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.records.journal import Journal


def line(epoch: int) -> dict[str, object]:
    return {"epoch": epoch, "loss": 1.0 / epoch, "top1": 0.5}


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard.*")
def test_tensorboard_reads_a_resumed_run_without_the_lost_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [line(1), line(2)]
    first = Journal(tmp_path, [])
    first.add(lines[:1])
    first.add(lines)
    first.close()
    monkeypatch.setattr("os.getpid", lambda: 99)  # another process goes on from epoch 1
    second = Journal(tmp_path, lines[:1])
    assert (tmp_path / "journal.jsonl").read_text().count("\n") == 1
    again = [line(1), {**line(2), "loss": 0.25}]
    second.add(again)
    second.close()
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2

    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 0.25)]
    written = [json.loads(text) for text in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert written == again


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard.*")
def test_tensorboard_has_the_epoch_after_whose_checkpoint_a_run_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [line(1), line(2)]
    first = Journal(tmp_path, [])
    first.add(lines[:1])  # the second line is in the checkpoint, and the process is killed
    first.close()
    monkeypatch.setattr("os.getpid", lambda: 99)
    Journal(tmp_path, lines).close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 0.5)]


def test_a_disk_that_is_full_is_noticed_here(tmp_path: Path) -> None:
    journal = Journal(tmp_path, [])
    journal._events._file.close()
    journal._events._file = open("/dev/full", "wb", buffering=0)  # noqa: PTH123, SIM115
    journal._events._writer._writer = journal._events._file
    with pytest.raises(OSError, match="No space left on device"):
        journal.add([line(1)])
    journal.close()
