"""The data and the plan of a run in each of its processes, which must be the same in all."""

import socket
from collections.abc import Callable
from contextlib import redirect_stdout

from runtime.base.errors import UserError
from training.config.options import Options
from training.config.plan import Plan, differences
from training.config.recipe import Recipe
from training.data import Dataset, load_stated
from training.data.data_check import DataCheck, checked_data
from training.data.leaks import without_leaks
from training.engine.process_group import ProcessGroup


def load_data(
    options: Options, recipe: Recipe, group: ProcessGroup
) -> tuple[Dataset, DataCheck | None]:
    """The data set, and in the main process its check.

    The main process decodes and compares the images while the others wait for the cache. Hosts that
    do not share the cache decode for themselves.

    Raises:
        UserError: in every process, if one of them cannot read the data or reads other data.
    """

    def load() -> Dataset:
        refresh = options.refresh and group.is_main
        return load_stated(options, recipe=recipe, progress=group.is_main, refresh=refresh)

    drop, allow = options.drop_leaks, options.allow_leaks
    check = group.on_main(lambda: checked_data(load(), options.data, drop=drop, allow=allow))

    def own() -> Dataset:
        if check is not None:
            return check.dataset
        with redirect_stdout(None):  # the main process has said it all
            return without_leaks(load(), drop, progress=False)

    dataset = group.on_all(own)
    group.on_main(_sameness(group.gather((socket.gethostname(), dataset.digest()))))
    return dataset, check


def check_same_plan(plan: Plan, group: ProcessGroup) -> None:
    """Checks that all processes train the same: each host has files and a command line of its own.

    Raises:
        UserError: in every process, if the recipe, the weights, the teacher or an option differ.
    """
    found: list[tuple[str, Plan]] = group.gather((socket.gethostname(), plan))

    def compare() -> None:
        for rank, (host, own) in enumerate(found):
            if apart := differences(plan, own):
                raise UserError(
                    f"process {rank} on {host} is to train something else than process 0 on "
                    f"{found[0][0]} ({'; '.join(apart)}); all hosts of a run need the same "
                    "options, and the same files behind them"
                )

    group.on_main(compare)


def _sameness(found: list[tuple[str, str]]) -> Callable[[], None]:
    """What compares the digests of the data, from all hosts by rank."""

    def compare() -> None:
        for rank, (host, digest) in enumerate(found):
            if digest != found[0][1]:
                raise UserError(
                    f"process {rank} on {host} reads other images or labels than process 0 on "
                    f"{found[0][0]}; all hosts of a run need the same data"
                )

    return compare
