"""A run that goes on with another number of processes: their shares of a step, and of its state."""

from typing import Any

import msgspec
import torch
from torch import Tensor

from runtime.base.errors import UserError
from training.config.plan import Plan, check_same_run
from training.engine.process_group import ProcessGroup

_FEWEST = 2  # images of a step in each process, for BatchNorm


def goes_on_with(former: Plan, wanted: Plan, *, where: str) -> Plan:
    """`wanted`, which goes on with the run `former`, perhaps with another number of processes.

    The images of one step stay as many as they were, so steps, epochs and learning rates keep their
    meaning. Only the share of each process changes.

    Raises:
        UserError: `wanted` is another run, or its processes cannot share the images evenly.
    """
    begun = former.begun_with or (former.processes, former.recipe.batch_size)
    whole = former.processes * former.recipe.batch_size
    asked = wanted.recipe.batch_size
    same = asked in (begun[1], former.recipe.batch_size) or asked * wanted.processes == whole
    if not same or (wanted.processes == former.processes and not former.begun_with):
        check_same_run(former, wanted, where=where)
        return wanted
    share = whole // wanted.processes
    if share * wanted.processes != whole or share < _FEWEST:
        fitting = [n for n in range(1, whole // _FEWEST + 1) if whole % n == 0]
        raise UserError(
            f"{where} learns from {whole} images in each step, which {wanted.processes} processes "
            f"cannot share evenly; start {', '.join(map(str, fitting))} with --resume"
        )
    begun_with = () if (wanted.processes, share) == begun else begun

    def shared(plan: Plan) -> Plan:
        recipe = msgspec.structs.replace(plan.recipe, batch_size=share)
        processes = wanted.processes
        return msgspec.structs.replace(
            plan, processes=processes, recipe=recipe, begun_with=begun_with
        )

    check_same_run(shared(former), shared(wanted), where=where)
    return shared(wanted)


def shared_out_words(former: Plan, plan: Plan) -> str | None:
    """A line that says that other processes go on with a run; None if they are as many as before.

    `former` is the plan of its checkpoint.
    """
    if former.processes == plan.processes:
        return None
    return (
        f"the checkpoint is of {_shares(former)} and goes on with {_shares(plan)}: its state is "
        "shared out anew, and each process draws its own augmentation"
    )


def _shares(plan: Plan) -> str:
    noun = "process" if plan.processes == 1 else "processes"
    return f"{plan.processes} {noun} of {plan.recipe.batch_size} images a step"


def part_of_process(
    states: list[dict[str, Any]], group: ProcessGroup, memory: dict[str, Tensor], batch_size: int
) -> dict[str, Any]:
    """What a checkpoint keeps for this process, of `states`, which are those of its processes.

    If they were as many as now it is the process's own. Otherwise the rows of the methods' memory
    are shared out anew in the order of the images of a step: process r has the r-th part. A process
    that did not exist then keeps the random generators that it has (`random` is missing).

    Args:
        states: one for each process of the checkpoint, by rank.
        group: the processes now.
        memory: the methods' memory in this process, by name, in its present shape.
        batch_size: images of a step in this process now.
    """
    if len(states) == group.world_size:
        return states[group.rank]
    own = dict(states[group.rank]) if group.rank < len(states) else {}
    own["memory"] = {
        name: _part([state["memory"][name] for state in states], like, group, batch_size)
        for name, like in memory.items()
    }
    return own


def _part(parts: list[Tensor], like: Tensor, group: ProcessGroup, batch_size: int) -> Tensor:
    if parts[0].shape == like.shape:  # a counter, or what the processes average: equal in all
        return parts[0]
    # The rows of several heads lie one head after another: (heads * images of a step, ...).
    heads = len(like) // batch_size
    by_head = [part.reshape(heads, -1, *part.shape[1:]) for part in parts]
    return torch.cat(by_head, dim=1).chunk(group.world_size, dim=1)[group.rank].flatten(0, 1)
