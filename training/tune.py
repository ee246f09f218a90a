"""Searches the settings of a training: `python training/tune.py --arch mobilenetv2 --data FOLDER`.

Every trial is a training of its own, judged by validation images alone: the test split takes no
part. A search that was stopped or killed goes on with the same command.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec

from runtime.base.command import CommandParser, positive_float, positive_int, run_command
from runtime.base.errors import UserError
from runtime.base.files import write_atomic
from runtime.model.locate import RUNS
from training.config.archs import check_arch
from training.config.command_words import command_line, stated_command, without_paths
from training.config.options import (
    add_setting_option,
    add_shared_options,
    file_word,
    names_batch,
    recipe_of,
    seed_number,
    shared_options,
)
from training.config.recipe import Recipe, default_recipe
from training.data import Dataset, load_stated
from training.data.data_check import checked_data
from training.data.splits import check_batch, check_selection, fit_batch
from training.records.run_folder import exclusive
from training.records.tracker import check_tracker
from training.studies.place_options import (
    add_place_options,
    open_place,
    print_commands,
    without_place,
)
from training.studies.pool import fail_runs
from training.tuning.search_space import SPACES, Space, ends_of, read_space
from training.tuning.trial_runs import (
    Bounds,
    SearchSettings,
    judged_by_validation,
    with_fresh_validation,
)

if TYPE_CHECKING:
    from training.tuning.search import Search

_FACTS = "search.json"  # what all trials share
_DEFAULT_TRIALS = 20


def main(arguments: Sequence[str]) -> int:
    """Trains trials until there are enough of them, then prints and writes what was found."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.print_commands:
        parser.refuse_unused(options, ("jobs", "minutes"), "beside --print-commands")
    check_arch(options.arch, options.width)
    check_tracker(options.log)
    # Opened first, so that a cluster that does not answer is told before data are decoded.
    place = None if options.print_commands else open_place(options.on, device=options.device)
    # With --print-commands stdout is for the commands alone.
    with redirect_stdout(sys.stderr) if options.print_commands else nullcontext():
        space, settings = _planned(options)

    # Imported here, so that what is wrong with the options is told first: both take seconds.
    from training.tuning.latency import latency_of
    from training.tuning.search import Search

    with exclusive(settings.folder):
        _keep_facts(settings, space, options)
        bounds = Bounds(options.max_macs, options.max_ms)
        search = Search(space, settings, bounds, latency=latency_of, place=place)
        if place is None:
            print_commands(search.missing_runs(trials=options.trials))
            return 0
        jobs = options.jobs or place.usual_jobs
        outcome = search.run(trials=options.trials, jobs=jobs, minutes=options.minutes)
        found = _tell(search, settings)
    if outcome.stopped:
        raise KeyboardInterrupt
    if outcome.waiting:
        print(f"{outcome.waiting} trials have begun and go on with the same command")  # noqa: T201
    return fail_runs(outcome.failed, of=options.trials) if outcome.failed and not found else 0


def _planned(options: argparse.Namespace) -> tuple[Space, SearchSettings]:
    """What may be tried, and what all trials share; the data are checked."""
    named = options.recipe or default_recipe(options.data)
    recipe = recipe_of(options)
    space = read_space(options.space or _space_of(named), arch=options.arch, recipe=recipe)
    data = _data(options, recipe)
    # Trials hold more images out than the recipe may do, so fewer are left to fill a batch.
    trial = judged_by_validation(recipe, has_validation=bool(data.validation_images))
    check_selection(trial, data)
    if names_batch(options) or "batch_size" in space:
        tried = ends_of(space["batch_size"]) if "batch_size" in space else [trial.batch_size]
        check_batch(msgspec.structs.replace(trial, batch_size=int(max(tried))), data)
    else:
        size = fit_batch(trial, data, say=print).batch_size
        recipe = msgspec.structs.replace(recipe, batch_size=size)
    return space, _settings(options, recipe, data)


def _tell(search: "Search", settings: SearchSettings) -> bool:
    """Prints the table and writes the picture and the best recipe; whether there is one."""
    from training.tuning.proposals import plain
    from training.tuning.search_report import (
        BEST,
        PICTURE,
        best_recipe,
        draw_search,
        search_table,
    )
    from training.tuning.trial_runs import run_of_trial

    folder = settings.folder
    print(f"\n{search_table(search)}\n")  # noqa: T201
    best = search.best()
    if best is None:
        print("no trial has finished within the bounds yet")  # noqa: T201
        return False
    values = plain(best.params)
    validation = f"validation top-1 {float(best.value or 0):.2%}"
    lines = [
        f"Found by: {settings.shared.command}",
        f"Trial {best.number} of {len(search.trials())}: {validation}.",
    ]
    if settings.recipe.thresholds and not settings.final.thresholds:
        lines.append("thresholds: false, because trials were judged by all that it may hold out.")
    best_recipe(values, settings.final, lines=lines, path=folder / BEST)
    draw_search(folder / PICTURE, search)
    run = run_of_trial(best.number, values, settings)
    asked = replace(
        run.options,
        recipe=str(folder / BEST),
        out=None,
        resume=False,
        command=None,
        no_error_sheet=False,
    )
    words = shlex.join(["python", "training/run.py", *command_line(asked)])
    print(f"best    {folder / BEST}  (trial {best.number}, {validation})")  # noqa: T201
    print(f"plot    {folder / PICTURE}\nnext    {words}")  # noqa: T201
    return True


def _settings(options: argparse.Namespace, recipe: Recipe, data: Dataset) -> SearchSettings:
    stated = without_place(vars(options) | without_paths(vars(options), data=data.name))
    stated["minutes"] = None
    if options.space and Path(options.space).suffix:
        stated["space"] = Path(options.space).name
    command = stated_command("training/tune.py", stated, _parser())
    shared = shared_options(options, command=command, no_error_sheet=True)
    return SearchSettings(
        recipe=recipe,
        final=with_fresh_validation(recipe, data),
        shared=shared,
        seed=options.seed,
        folder=RUNS / "tune" / (options.name or f"{data.name}-{options.arch}"),
        drg=options.drg,
        dsr=options.dsr,
        has_validation=bool(data.validation_images),
        classes=data.num_classes,
        image_size=data.input.size,
        data_digest=data.digest(),
        content_digest=data.content_digest(show=True),
    )


def _keep_facts(settings: SearchSettings, space: Space, options: argparse.Namespace) -> None:
    """Keeps what the search is; trials of two different ones do not compare.

    Raises:
        UserError: if the folder holds another search.
    """
    facts = msgspec.to_builtins(
        {
            "arch": settings.shared.arch,
            "width": settings.shared.width,
            "image_size": settings.shared.image_size,
            "data": settings.data_digest,
            "pictures": settings.content_digest,
            "recipe": settings.recipe,
            "space": space,
            "terms": [settings.drg, settings.dsr],
            "seed": settings.seed,
            "max_macs": options.max_macs,
            "max_ms": options.max_ms,
        }
    )
    facts = msgspec.json.decode(msgspec.json.encode(facts))
    path = settings.folder / _FACTS
    if path.exists():
        former = msgspec.json.decode(path.read_bytes())
        former.setdefault("pictures", settings.content_digest)  # older versions had "data" alone
        if other := [key for key, value in facts.items() if former.get(key) != value]:
            raise UserError(
                f"{settings.folder} holds another search (its {', '.join(other)} differ); "
                "remove it, or give this one another --name"
            )
    write_atomic(path, msgspec.json.encode(facts))


def _data(options: argparse.Namespace, recipe: Recipe) -> Dataset:
    # Loaded here, so that a mistake in the data is told once, and not by each trial.
    loaded = load_stated(options, recipe=recipe)
    checked = checked_data(loaded, options.data, drop=options.drop_leaks, allow=options.allow_leaks)
    return checked.dataset


def _space_of(recipe: str) -> str:
    """The space that comes with the recipe; a recipe in a file has the one for folders."""
    return recipe if (SPACES / f"{recipe}.yaml").exists() else "folder"


def _parser() -> CommandParser:
    parser = CommandParser(prog="python training/tune.py", description=__doc__)
    add_shared_options(parser)
    add_setting_option(parser)
    parser.add_argument("--drg", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--dsr", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--space", metavar="NAME_OR_FILE", help="what may be tried (default: the recipe's space)"
    )
    parser.add_argument(
        "--trials",
        type=positive_int,
        default=_DEFAULT_TRIALS,
        metavar="N",
        help=f"in all, those of earlier calls too (default: {_DEFAULT_TRIALS})",
    )
    parser.add_argument("--minutes", type=positive_float, metavar="M", help="then stop, resumably")
    add_place_options(parser, noun="trials")
    parser.add_argument(
        "--max-macs", type=positive_float, metavar="N", help="the most MACs of a student"
    )
    parser.add_argument(
        "--max-ms",
        type=positive_float,
        metavar="MS",
        help="the most milliseconds of the network for one picture on this machine",
    )
    parser.add_argument("--seed", type=seed_number, default=0, metavar="N", help="of all trials")
    parser.add_argument(
        "--name", type=file_word, help="of the search's folder in runs/tune/ (default: by data)"
    )
    return parser


def command() -> NoReturn:
    run_command(main, extra="tune")


if __name__ == "__main__":
    command()
