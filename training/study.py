"""One recipe, several methods and seeds: `python training/study.py --arch mobilenetv2`.

Every run is a `training/run.py --resume` in a folder of its own, so a study that was stopped goes
on where it was. The results are lines of `results/STUDY.jsonl`, a table and a plot.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from runtime.base.command import CommandParser, positive_int, run_command
from runtime.model.locate import RUNS
from training.config.archs import check_arch
from training.config.options import add_shared_options
from training.config.recipe import Recipe, default_recipe, load_recipe, recipe_with_settings
from training.data import load_dataset
from training.data.splits import fit_batch
from training.records.run_folder import exclusive
from training.studies.lines import RESULTS, merge_lines
from training.studies.pool import fail_runs, run_all
from training.studies.rows import METHODS, Method, distinct, methods_from_words
from training.studies.study_plot import plot_name, plot_study
from training.studies.study_run import StudyRun, shared_options, study_run
from training.studies.tables import study_table

_MAIN = "main"


def main(arguments: Sequence[str]) -> int:
    """Runs what is missing, then writes lines and plot and prints the table."""
    options = _parser().parse_args(arguments)
    check_arch(options.arch, options.width)
    folder = RUNS / "studies" / options.study
    recipe = _recipe(options)
    methods = distinct(methods_from_words(options.terms), recipe, say=print)
    # Here once, so that a mistake in it is not that of every run.
    data = load_dataset(options.data, image_size=options.image_size, data_root=options.data_root)
    if not _names_batch(options):
        recipe = fit_batch(recipe, data, say=print)
    runs = _runs(options, methods, recipe, folder, data.digest())
    with exclusive(folder):
        failed = run_all(runs, jobs=options.jobs).failed
    lines = [line for run in runs if (line := run.line()) is not None]
    if lines:
        results = RESULTS / f"{options.study}.jsonl"
        merge_lines(results, lines)
        plot = results.with_name(plot_name(options.study, lines[0]))
        plot_study(plot, lines)
        print(f"\n{study_table(lines)}\n\nlines  {results}\nplot   {plot}")  # noqa: T201
    if failed:
        return fail_runs(failed, of=len(runs))
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(prog="python training/study.py", description=__doc__)
    add = parser.add_argument
    add_shared_options(parser)
    add("--terms", default="ce,ls,ds,drg,dsr,drg+dsr", help=f"of {','.join(METHODS)}")
    add("--seeds", type=positive_int, default=3, metavar="N", help="seeds 0 to N-1 (default: 3)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the recipe")
    add("--study", default=_MAIN, help="the word for these runs (default: main)")
    add(
        "--jobs",
        type=positive_int,
        default=1,
        help="runs at a time, all on one device (default: 1)",
    )
    return parser


def _recipe(options: argparse.Namespace) -> Recipe:
    given = {"epochs": options.epochs, "batch_size": options.batch_size}
    overrides = {key: value for key, value in given.items() if value is not None}
    recipe = load_recipe(options.recipe or default_recipe(options.data), overrides)
    return recipe_with_settings(recipe, options.set)


def _names_batch(options: argparse.Namespace) -> bool:
    """Whether the batch size is the user's choice, not that of the data's default recipe."""
    keys = {word.partition("=")[0].strip() for word in options.set}
    return bool(options.recipe or options.batch_size or "batch_size" in keys)


def _runs(
    options: argparse.Namespace,
    methods: Sequence[Method],
    recipe: Recipe,
    folder: Path,
    data_digest: str,
) -> list[StudyRun]:
    shared = shared_options(
        arch=options.arch,
        width=options.width,
        data=options.data,
        device=options.device,
        data_root=options.data_root,
        image_size=options.image_size,
    )
    return [
        study_run(
            method,
            seed,
            recipe,
            study=options.study,
            folder=folder,
            options=shared,
            data_digest=data_digest,
        )
        for method in methods
        for seed in range(options.seeds)
    ]


def command() -> NoReturn:
    run_command(main, extra="train")


if __name__ == "__main__":
    command()
