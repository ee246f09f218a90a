"""A checkpoint without what only training needs is made of a finished run alone."""

from typing import cast

import pytest

from training.config.plan import Plan
from training.records.checkpoint import Checkpoint, without_training


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
