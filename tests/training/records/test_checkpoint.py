"""What is no checkpoint is refused in one line, and one of a finished run alone is made small."""

import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from runtime.base.errors import UserError
from runtime.base.files import sha256_of, write_atomic
from training.config.plan import Plan
from training.records.checkpoint import (
    Checkpoint,
    load_trained,
    read_checkpoint,
    without_training,
)


def test_a_checkpoint_that_training_still_needs_is_not_made_small() -> None:
    plan = cast(Plan, None)
    begun = Checkpoint(
        plan=plan,
        epoch=1,
        step=0,
        student={},
        raw_student=None,
        auxiliary=None,
        training={"optimizer": {}},
        terms=[],
        seconds=0,
        history=[],
        temperature=1,
        finished=False,
    )
    with pytest.raises(ValueError, match="needs all of its checkpoint to go on"):
        without_training(begun)


def test_the_digest_of_a_run_that_goes_on_is_of_the_content_that_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export names its weights by it, and may be made while the run trains."""
    run = tmp_path / "run"
    shutil.copytree(Path(__file__).with_name("format_1") / "byot", run)
    file = run / "checkpoint.pt"
    before, load = sha256_of(file), torch.load

    def saved_meanwhile(*arguments: Any, **named: Any) -> Any:
        found = load(*arguments, **named)
        write_atomic(file, b"the next epoch")
        return found

    monkeypatch.setattr(torch, "load", saved_meanwhile)
    assert load_trained(run).checkpoint_sha256 == before


def test_any_bytes_that_are_no_checkpoint_are_refused_in_one_line(tmp_path: Path) -> None:
    """Torch reads them as a pickle, in which each byte is an instruction."""
    file = tmp_path / "checkpoint.pt"
    for seed in range(300):
        file.write_bytes(np.random.default_rng(seed).bytes(1000))
        with pytest.raises(UserError, match="no checkpoint of ours") as refused:
            read_checkpoint(file)
        assert "\n" not in str(refused.value)
