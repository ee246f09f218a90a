"""The command line of training, and Options, which are what it says."""

from argparse import (
    SUPPRESS,
    ArgumentTypeError,
    BooleanOptionalAction,
    Namespace,
)
from dataclasses import dataclass
from pathlib import Path

from runtime.base.command import CommandParser, folder_path, positive_float, positive_int
from runtime.base.errors import UserError
from runtime.model.card import FITS
from training.config.archs import ARCHS
from training.config.cache_form import ARRAYS, cache_form
from training.config.data_columns import columns_text
from training.config.recipe import (
    Recipe,
    default_recipe,
    load_recipe,
    parsed_settings,
)

KEEP_LEAKS, DROP_EXACT, DROP_NEAR = LEAKS = ("none", "exact", "near")
CLASSES = ("folders", "leaves")  # which folders of images are classes
DEVICES = ("auto", "cpu", "cuda")  # what `training.engine.device.choose_device` understands
TRACKERS = ("mlflow", "wandb", "trackio")  # what `training.records.tracker_sinks.SINKS` has
# The shared options that change a recipe, and the recipe itself.
_KEYS_OF_RECIPE = ("epochs", "batch_size", "fit")
_OF_RECIPE = {"recipe", *_KEYS_OF_RECIPE}
_MAX_SEED = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `training/run.py` is asked for. None stands for the recipe's or the data's default.

    `command` is the command that the result states, where that is not `training/run.py` itself: a
    study gives its own to each of its runs.
    """

    arch: str
    drg: bool = False
    dsr: bool = False
    width: float = 1.0
    data: str = "digits"
    data_root: Path | None = None
    classes: str = CLASSES[0]
    columns: str = ""
    cache: str = ARRAYS
    refresh: bool = False
    drop_leaks: str = KEEP_LEAKS
    allow_leaks: bool = False
    image_size: int | None = None
    fit: str | None = None
    recipe: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    set: list[str] | None = None
    seed: int = 0
    out: Path | None = None
    resume: bool = False
    device: str = "auto"
    log: str | None = None
    pretrained: bool = False
    weights: Path | None = None
    teacher: Path | None = None
    no_error_sheet: bool = False
    command: str | None = None


def option_parser() -> CommandParser:
    """The parser whose result has the names and types of `Options`."""
    parser = CommandParser(
        prog="python training/run.py",
        description="Trains a compact student with self-knowledge distillation.",
        epilog="Example: python training/run.py --arch mobilenetv2 --drg --dsr",
    )
    add_shared_options(parser)
    add_setting_option(parser)
    for flag, meaning in (
        ("drg", "distillation with reverse guidance: a shallow head teaches the output"),
        ("dsr", "shape-wise regularization: ranked outputs agree between batches"),
    ):
        parser.add_argument(
            f"--{flag}", action=BooleanOptionalAction, default=False, help=f"{meaning} (off)"
        )
    parser.add_argument(
        "--seed",
        type=seed_number,
        default=Options.seed,
        metavar="N",
        help="of weights, order, augmentation",
    )
    parser.add_argument(
        "--out", type=folder_path, metavar="DIR", help="run folder (default: one in runs/)"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the run's checkpoint")
    parser.add_argument(
        "--refresh", action="store_true", help="decode the data again, whatever the cache holds"
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--pretrained", action="store_true", help="start from torchvision's ImageNet weights"
    )
    start.add_argument("--weights", type=Path, metavar="FILE", help="start from a file's weights")
    parser.add_argument(
        "--no-error-sheet",
        action="store_true",
        help="write no errors.png, the picture of the worst mistakes: for private pictures",
    )
    parser.add_argument(
        "--teacher", type=folder_path, metavar="RUN", help="a finished run whose student teaches"
    )
    parser.add_argument("--command", help=SUPPRESS)
    return parser


def add_shared_options(parser: CommandParser) -> None:
    """Adds the options that all runs of a study share: student, data, recipe and device."""
    parser.add_argument(
        "--arch", required=True, metavar="ARCH", help=f"the student: {', '.join(ARCHS)}"
    )
    parser.add_argument(
        "--width",
        type=positive_float,
        default=Options.width,
        help="multiplies the channels: mobilenetv2 0.25-1.4, shufflenetv2 0.5, 1.0, 1.5 or 2.0",
    )
    parser.add_argument(
        "--data",
        default=Options.data,
        metavar="NAME_OR_PATH",
        help="data set, folder, list, table or archive (default: digits)",
    )
    add_data_options(parser)
    leaks = parser.add_mutually_exclusive_group()
    leaks.add_argument(
        "--drop-leaks",
        nargs="?",
        choices=LEAKS[1:],
        const=DROP_EXACT,
        default=Options.drop_leaks,
        help="train without the images that are also held out; near: without near copies, too",
    )
    leaks.add_argument(
        "--allow-leaks", action="store_true", help="train though test images are also in train"
    )
    parser.add_argument(
        "--recipe", metavar="NAME_OR_FILE", help="recipe or .yaml file (default: by data)"
    )
    parser.add_argument("--epochs", type=positive_int, metavar="N", help="instead of the recipe's")
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        metavar="N",
        help="instead of the recipe's; per process",
    )
    parser.add_argument("--device", choices=DEVICES, default=Options.device)
    parser.add_argument(
        "--log", choices=TRACKERS, help="a tracker that follows the journal, which has its extra"
    )


def add_setting_option(parser: CommandParser) -> None:
    """Adds `--set KEY=VALUE`, which `recipe_of` lays on the recipe."""
    parser.add_argument(
        "--set",
        action="append",
        metavar="KEY=VALUE",
        help="a key of the recipe, instead of its own (repeatable)",
    )


def recipe_of(given: Options | Namespace) -> Recipe:
    """The recipe that was named, or that of the data, with what the command line lays on top.

    Raises:
        UserError: in one line, if the recipe or what is laid on it cannot be.
    """
    options, settings = recipe_overrides(given), parsed_settings(given.set or [])
    for key in options:
        if key in settings:
            raise UserError(
                f"--{key.replace('_', '-')} and --set {key} are one choice; leave one of them out"
            )
    return load_recipe(given.recipe or default_recipe(given.data), options | settings)


def names_batch(given: Options | Namespace) -> bool:
    """Whether the user has chosen the batch size, which otherwise is that of the data's recipe."""
    settings = parsed_settings(given.set or [])
    return bool(given.recipe or given.batch_size or "batch_size" in settings)


def recipe_overrides(given: Options | Namespace) -> dict[str, object]:
    """The recipe's keys that were given as shared options."""
    values = {key: getattr(given, key) for key in _KEYS_OF_RECIPE}
    return {key: value for key, value in values.items() if value is not None}


def shared_options(given: Namespace, *, command: str, no_error_sheet: bool = False) -> Options:
    """What a study or a search hands to each of its runs: all options of `add_shared_options`.

    Those of the recipe are left out, because a run reads them from a recipe file of its own.

    Args:
        given: what a parser with `add_shared_options` has read.
        command: that the results state.
        no_error_sheet: whether the runs draw none of their mistakes.
    """
    parser = CommandParser(prog="", description=None)
    add_shared_options(parser)
    names = vars(parser.parse_args(["--arch", ARCHS[0]])).keys() - _OF_RECIPE
    values = {name: getattr(given, name) for name in names}
    return Options(**values, command=command, no_error_sheet=no_error_sheet)


def add_data_options(parser: CommandParser) -> None:
    """Adds the options that say how data are read, beside what they are."""
    parser.add_argument(
        "--data-root",
        type=folder_path,
        metavar="DIR",
        help="where a known data set lies, or goes",
    )
    parser.add_argument(
        "--classes",
        choices=CLASSES,
        default=Options.classes,
        help="which folders of images are classes (default: folders); leaves: the lowest ones",
    )
    parser.add_argument(
        "--columns",
        type=columns_text,
        default=Options.columns,
        metavar="image=A,label=B",
        help="which columns of a list or table are read; also split=C, group=D",
    )
    parser.add_argument(
        "--cache",
        type=cache_form,
        default=Options.cache,
        metavar="FORM",
        help="keep decoded arrays (default), the pictures' own bytes (encoded), or JPEGs made of "
        "them (encoded:90)",
    )
    parser.add_argument(
        "--image-size", type=positive_int, metavar="S", help="side in pixels (default: by data)"
    )
    parser.add_argument(
        "--fit",
        choices=FITS,
        help="pictures that are no squares are cropped to the centre (default), or seen whole: "
        "letterbox adds bars, stretch distorts; instead of the recipe's",
    )


def file_word(text: str) -> str:
    """A word by which files and folders are called, as the `type` of an option.

    Raises:
        ArgumentTypeError: with `text` in their names they would lie elsewhere, or break a line.
    """
    if "/" in text or text in (".", "..") or not text.isprintable():
        raise ArgumentTypeError(f"received {text!r}, expected a word to call files by, without /")
    return text


def seed_number(text: str) -> int:
    """A whole number from 0 to 2**32 - 1, as the `type` of an option."""
    if not text.isdecimal() or int(text) > _MAX_SEED:
        raise ArgumentTypeError(f"received {text!r}, expected a whole number from 0 to {_MAX_SEED}")
    return int(text)
