"""What is no checkpoint is refused in one line, and one of a finished run alone is made small."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest

from runtime.base.errors import UserError
from training.config.plan import Plan
from training.records.checkpoint import Checkpoint, read_checkpoint, without_training


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


def test_any_bytes_that_are_no_checkpoint_are_refused_in_one_line(tmp_path: Path) -> None:
    """Torch reads them as a pickle, in which each byte is an instruction."""
    file = tmp_path / "checkpoint.pt"
    for seed in range(300):
        file.write_bytes(np.random.default_rng(seed).bytes(1000))
        with pytest.raises(UserError, match="no checkpoint of ours") as refused:
            read_checkpoint(file)
        assert "\n" not in str(refused.value)
