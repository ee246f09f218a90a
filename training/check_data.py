"""Checks a data set before it is trained on: `python training/check_data.py DATA`.

It counts the images of each class and split, what is left out and why, and exact and near
duplicates, across splits and across classes, and warns of what may spoil a training.
"""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import NoReturn

from runtime.base.command import CommandParser, print_json, run_command
from runtime.base.errors import UserError
from runtime.base.files import check_writable
from runtime.model.card import FITS
from training.config.options import KEEP_LEAKS, add_data_options


def main(arguments: Sequence[str]) -> int:
    """Prints the report, as text or as one JSON object."""
    options = _parser().parse_args(arguments)
    if options.pairs is not None:
        _check_file(options.pairs)

    from training.data import load_dataset
    from training.data.data_check import checked_data
    from training.data.data_report import text_of, write_pairs

    # With --json, stdout holds the object alone. Lines about the work go to a terminal's stderr.
    aside = sys.stderr if sys.stderr.isatty() else None
    with redirect_stdout(aside if options.json else sys.stdout):
        dataset = load_dataset(
            options.data,
            image_size=options.image_size,
            fit=options.fit or FITS[0],
            data_root=options.data_root,
            classes=options.classes,
            columns=options.columns,
            cache=options.cache,
            allow_leaks=True,
            refresh=options.refresh,
        )
        check = checked_data(dataset, options.data, drop=KEEP_LEAKS, allow=True)
    pairs = 0
    if options.pairs is not None:
        pairs = write_pairs(options.pairs, check.dataset, check.inspection)
    if options.json:
        print_json(check.report)
        return 0
    print(f"\n{text_of(check.report)}")  # noqa: T201
    if options.pairs is not None:
        print(f"\npairs  {options.pairs}" if pairs else "\nno pairs of duplicates to write")  # noqa: T201
    return 0


def _check_file(pairs: Path) -> None:
    """Checks before the work that the file of `--pairs` can be written.

    Raises:
        UserError: it is a folder, or lies in none that may be written.
    """
    if not pairs.parent.is_dir():
        raise UserError(f"--pairs {pairs}: {pairs.parent} is no folder; make it")
    if pairs.is_dir():
        raise UserError(f"--pairs {pairs} is a folder; expected a file, which may be new")
    check_writable(pairs.parent)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python training/check_data.py",
        description=__doc__,
        epilog="Example: python training/check_data.py photos --pairs pairs.csv",
    )
    parser.add_argument("data", metavar="DATA", help="data set: a name, or a path of your own")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--pairs", type=Path, metavar="FILE", help="write the pairs of duplicates to a CSV file"
    )
    add_data_options(parser)
    parser.add_argument(
        "--refresh", action="store_true", help="decode the data again, whatever the cache holds"
    )
    return parser


def command() -> NoReturn:
    run_command(main, extra="train")


if __name__ == "__main__":
    command()
