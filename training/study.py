"""One recipe, several methods and seeds: `python training/study.py --arch mobilenetv2`.

Each run is a `training/run.py --resume` in a folder of its own: a study that was stopped goes on
where it was. The results are lines of `results/STUDY.jsonl`, a table and a plot.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import NoReturn

from runtime.base.command import CommandParser, positive_int, run_command
from runtime.model.locate import RUNS
from training.config.archs import check_arch
from training.config.command_words import stated_command, without_paths
from training.config.options import (
    add_setting_option,
    add_shared_options,
    file_word,
    names_batch,
    recipe_of,
    shared_options,
)
from training.config.recipe import Recipe
from training.data import Dataset, check_crop_of, load_stated
from training.data.data_check import checked_data
from training.data.splits import check_batch, check_selection, fit_batch
from training.records.run_folder import exclusive
from training.records.tracker import check_tracker
from training.studies.evidence_tables import differences_table
from training.studies.place_options import (
    add_place_options,
    open_place,
    print_commands,
    without_place,
)
from training.studies.pool import fail_runs, run_all
from training.studies.result_lines import (
    RESULTS,
    Line,
    merge_lines,
    read_lines,
    refuse_other_data,
)
from training.studies.study_methods import (
    NAMED_METHODS,
    StudyMethod,
    without_duplicates,
)
from training.studies.study_run import StudyRun
from training.studies.study_table import plot_name, plot_study, study_table
from training.studies.variants import methods_named

_MAIN = "main"


def main(arguments: Sequence[str]) -> int:
    """Runs what is missing, then writes lines and plot and prints the table."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.print_commands:
        parser.refuse_unused(options, ("jobs",), "beside --print-commands")
    check_arch(options.arch, options.width)
    check_tracker(options.log)
    if options.print_commands:
        with redirect_stdout(sys.stderr):  # stdout is for the commands alone
            runs = _planned(options)
        print_commands(run for run in runs if run.line() is None)
        return 0
    place = open_place(options.on, device=options.device)
    runs = _planned(options)
    with exclusive(_folder(options.study)):
        failed = run_all(runs, jobs=options.jobs or place.usual_jobs, place=place).failed
    lines = [line for run in runs if (line := run.recorded_line()) is not None]
    if lines:
        results = _lines_file(options.study)
        merge_lines(results, lines)
        plot = results.with_name(plot_name(options.study, lines[0]))
        plot_study(plot, lines)
        print(f"\n{tables_of(lines)}\n\nlines  {results}\nplot   {plot}")  # noqa: T201
    if failed:
        return fail_runs(failed, of=len(runs))
    return 0


def tables_of(lines: Sequence[Line]) -> str:
    """The rows of a study, and how they differ from cross-entropy where enough seeds say so."""
    tables = [study_table(lines)]
    if (differences := differences_table(lines)) is not None:
        tables += ["Differences to cross-entropy with 95 % intervals:", differences]
    return "\n\n".join(tables)


def _planned(options: argparse.Namespace) -> list[StudyRun]:
    """The runs that the options ask for, finished or not; their data are checked."""
    recipe = recipe_of(options)
    methods = without_duplicates(methods_named(options.terms), recipe, say=print)
    # Loaded here, so that a mistake in the data is told once, and not by each run.
    data = checked_data(
        load_stated(options, recipe=recipe),
        options.data,
        drop=options.drop_leaks,
        allow=options.allow_leaks,
    ).dataset
    for method in methods:
        own = method.recipe_on(recipe)
        check_selection(own, data)
        check_crop_of(options.data, image_size=options.image_size, recipe=own)
        if names_batch(options):
            check_batch(own, data)
    if not names_batch(options):
        recipe = fit_batch(recipe, data, say=print)
    return _runs(options, methods, recipe, data)


def _parser() -> CommandParser:
    parser = CommandParser(prog="python training/study.py", description=__doc__)
    add_shared_options(parser)
    parser.add_argument(
        "--terms", default="ce,ls,ds,drg,dsr,drg+dsr", help=f"of {','.join(NAMED_METHODS)}"
    )
    parser.add_argument(
        "--seeds",
        type=positive_int,
        default=3,
        metavar="N",
        help="seeds 0 to N-1 (default: 3)",
    )
    add_setting_option(parser)
    parser.add_argument(
        "--study", type=file_word, default=_MAIN, help="the word for these runs (default: main)"
    )
    add_place_options(parser, noun="runs")
    return parser


def _runs(
    options: argparse.Namespace, methods: Sequence[StudyMethod], recipe: Recipe, data: Dataset
) -> list[StudyRun]:
    stated = without_place(vars(options) | without_paths(vars(options), data=data.name))
    shared = shared_options(options, command=stated_command("training/study.py", stated, _parser()))
    digest, content_digest = data.digest(), data.content_digest(show=True)
    results = _lines_file(options.study)
    size, fit = data.input.size, recipe.fit
    kept = read_lines(results)
    refuse_other_data(kept, results, data.name, content_digest, image_size=size, fit=fit)
    return [
        StudyRun(
            method=method,
            seed=seed,
            study=options.study,
            recipe=method.recipe_on(recipe),
            parent=_folder(options.study),
            shared=shared,
            data_digest=digest,
            content_digest=content_digest,
        )
        for method in methods
        for seed in range(options.seeds)
    ]


def _folder(study: str) -> Path:
    return RUNS / "studies" / study


def _lines_file(study: str) -> Path:
    return RESULTS / f"{study}.jsonl"


def command() -> NoReturn:
    run_command(main, extra="train")


if __name__ == "__main__":
    command()
