"""A run goes on with another number of processes, with the same images in each step."""

from collections.abc import Callable

import msgspec
import pytest
import torch
from torch import Tensor

from runtime.base.errors import UserError
from training.config.plan import Plan
from training.engine.process_group import ProcessGroup
from training.engine.resharding import goes_on_with, part_of_process, shared_out_words

MakePlan = Callable[..., Plan]


def plan_of(make_plan: MakePlan, processes: int, batch_size: int, **more: object) -> Plan:
    plan = make_plan(batch_size=batch_size, **more)
    return msgspec.structs.replace(plan, processes=processes)


@pytest.mark.parametrize(
    ("processes", "batch_size"),
    [(4, 8), (4, 4), (1, 8), (1, 16)],  # the command as it was, and one that names the new share
)
def test_the_images_of_a_step_stay_as_many(
    make_plan: MakePlan, processes: int, batch_size: int
) -> None:
    former = plan_of(make_plan, 2, 8)
    plan = goes_on_with(former, plan_of(make_plan, processes, batch_size), where="run")
    assert (plan.processes, plan.recipe.batch_size) == (processes, 16 // processes)
    assert shared_out_words(former, plan) is not None
    again = goes_on_with(plan, plan_of(make_plan, processes, batch_size), where="run")
    assert again == plan
    assert shared_out_words(plan, again) is None
    back = goes_on_with(plan, plan_of(make_plan, 2, 8), where="run")
    assert back == former


def test_what_cannot_be_shared_and_what_is_another_run_is_refused(make_plan: MakePlan) -> None:
    former = plan_of(make_plan, 2, 8)
    with pytest.raises(UserError, match=r"16 images in each step.* start 1, 2, 4, 8 with --resume"):
        goes_on_with(former, plan_of(make_plan, 3, 8), where="run")
    with pytest.raises(UserError, match=r"holds another run .*learning_rate"):
        goes_on_with(former, plan_of(make_plan, 4, 8, learning_rate=0.5), where="run")
    with pytest.raises(UserError, match=r"holds another run .*batch_size: 8, now 6"):
        goes_on_with(former, plan_of(make_plan, 4, 6), where="run")
    with pytest.raises(UserError, match=r"holds another run .*batch_size: 8, now 16"):
        goes_on_with(former, plan_of(make_plan, 2, 16), where="run")


def rows(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)[:, None]


def test_memory_is_shared_out_in_the_order_of_the_images_of_a_step() -> None:
    states = [
        {"memory": {"rows": rows(0, 1, 10, 11), "count": torch.tensor(7.0)}, "random": "first"},
        {"memory": {"rows": rows(2, 3, 12, 13), "count": torch.tensor(7.0)}, "random": "second"},
    ]  # two heads of two images in each of two processes

    def part(rank: int, world_size: int, *, images: int) -> dict[str, object]:
        like = {"rows": torch.zeros(2 * images, 1), "count": torch.zeros(())}
        return part_of_process(states, ProcessGroup(rank, world_size), like, images)

    alone = part(0, 1, images=4)
    assert torch.equal(alone["memory"]["rows"], rows(0, 1, 2, 3, 10, 11, 12, 13))
    assert alone["memory"]["count"] == 7
    assert alone["random"] == "first"
    third = part(2, 4, images=1)
    assert torch.equal(third["memory"]["rows"], rows(2, 12))
    assert "random" not in third
    assert part(1, 2, images=2) is states[1]
