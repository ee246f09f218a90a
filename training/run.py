"""Trains a student: `python training/run.py --arch mobilenetv2 --drg --dsr`."""

from collections.abc import Sequence
from typing import NoReturn

from runtime.base.command import run_command
from training.config.archs import check_arch
from training.config.options import Options, option_parser, recipe_of
from training.records.tracker import check_tracker


def main(arguments: Sequence[str]) -> int:
    """Trains, and prints where the run is and what to do with it."""
    options = Options(**vars(option_parser().parse_args(arguments)))
    # Names and recipe are checked before torch, which takes seconds to import.
    check_arch(options.arch, options.width)
    check_tracker(options.log)
    recipe = recipe_of(options)

    from training.train import train

    return train(options, recipe)


def command() -> NoReturn:
    run_command(main, extra="train")


if __name__ == "__main__":
    command()
