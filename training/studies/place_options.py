"""The options that say where runs go on: `--on`, `--jobs` and `--print-commands`."""

import argparse
import re
import shlex
from collections.abc import Iterable

from runtime.base.command import CommandParser, positive_int
from training.studies.local_runs import LocalRuns, command_of, write_recipe
from training.studies.place import Place, whole_paths
from training.studies.study_run import StudyRun

_RAY = "ray"
_ADDRESS = re.compile(rf"{_RAY}(://(?P<host>\[[0-9A-Fa-f:.]+\]|[^:/\[\]\s]+):(?P<port>\d+)/?)?")
_MAX_PORT = 65535


def add_place_options(parser: CommandParser, *, noun: str) -> None:
    """Adds `--jobs`, `--on` and `--print-commands`; `noun` is what goes on, such as "runs"."""
    parser.add_argument(
        "--jobs",
        type=positive_int,
        metavar="N",
        help=f"{noun} at a time (default: 1; on Ray one a GPU, or one a node)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--on",
        type=_place_text,
        metavar="ray[://HOST:PORT]",
        help="a Ray cluster, instead of this machine alone: the one that this machine belongs to, "
        "or the one with its head at this address",
    )
    where.add_argument(
        "--print-commands",
        action="store_true",
        help=f"train nothing; print the commands of the {noun}, one a line, for other schedulers",
    )


def without_place(stated: dict[str, object]) -> dict[str, object]:
    """The options without those that say where runs go on and are logged: no result tells them."""
    return stated | dict.fromkeys(("jobs", "on", "print_commands", "log"))


def open_place(on: str | None, *, device: str) -> Place:
    """The place that `--on` names; None: this machine.

    Raises:
        UserError: if Ray is not installed, or if no cluster answers.
    """
    if on is None:
        return LocalRuns()
    from training.studies.ray_runs import RayRuns  # takes Ray along

    return RayRuns(on, device=device)


def print_commands(runs: Iterable[StudyRun]) -> None:
    """Prints the command of each run as a line for a shell, with whole paths.

    The recipes are written to their files, which the commands read.
    """
    for run in runs:
        write_recipe(run)
        print(shlex.join(command_of(whole_paths(run.options))))  # noqa: T201


def _place_text(text: str) -> str:
    found = _ADDRESS.fullmatch(text)
    if found is None or int(found["port"] or 1) not in range(1, _MAX_PORT + 1):
        raise argparse.ArgumentTypeError(
            f"received {text!r}, expected ray, or ray://HOST:PORT such as ray://10.0.0.5:6379"
        )
    # The address alone; nothing for the cluster that this machine belongs to.
    return f"{found['host']}:{found['port']}" if found["host"] else ""
