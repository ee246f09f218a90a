"""The command line of training."""

from argparse import ArgumentTypeError, BooleanOptionalAction
from dataclasses import dataclass
from pathlib import Path

from runtime.base.command import CommandParser, folder_path, positive_float, positive_int
from training.config.archs import ARCHS

DEVICES = ("auto", "cpu", "cuda")  # what `training.engine.device.choose_device` understands
_MAX_SEED = 2**32 - 1


def seed_number(text: str) -> int:
    """A whole number from 0 to 2**32 - 1, as the `type` of an option."""
    if not text.isdecimal() or int(text) > _MAX_SEED:
        raise ArgumentTypeError(f"received {text!r}, expected a whole number from 0 to {_MAX_SEED}")
    return int(text)


@dataclass(frozen=True)
class Options:
    """What `training/run.py` was asked for; None means the recipe's or the data's default."""

    arch: str
    drg: bool
    dsr: bool
    width: float
    data: str
    data_root: Path | None
    image_size: int | None
    recipe: str | None
    epochs: int | None
    batch_size: int | None
    seed: int
    out: Path | None
    resume: bool
    device: str
    pretrained: bool
    weights: Path | None

    def overrides(self) -> dict[str, object]:
        """The recipe's keys that were given on the command line."""
        given = {"epochs": self.epochs, "batch_size": self.batch_size}
        return {key: value for key, value in given.items() if value is not None}


def option_parser() -> CommandParser:
    """The parser whose result fits `Options`."""
    parser = CommandParser(
        prog="python training/run.py",
        description="Trains a compact student with self-knowledge distillation.",
        epilog="Example: python training/run.py --arch mobilenetv2 --drg --dsr",
    )
    add = parser.add_argument
    add_shared_options(parser)
    for flag, meaning in (
        ("drg", "distillation with reverse guidance: a shallow head teaches the output"),
        ("dsr", "shape-wise regularization: ranked outputs agree between batches"),
    ):
        add(f"--{flag}", action=BooleanOptionalAction, default=False, help=f"{meaning} (off)")
    add("--seed", type=seed_number, default=0, metavar="N", help="of weights, order, augmentation")
    add("--out", type=folder_path, metavar="DIR", help="run folder (default: one in runs/)")
    add("--resume", action="store_true", help="go on from the run's checkpoint")
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--pretrained", action="store_true", help="start from torchvision's ImageNet weights"
    )
    start.add_argument("--weights", type=Path, metavar="FILE", help="start from a file's weights")
    return parser


def add_shared_options(parser: CommandParser) -> None:
    """Adds what all runs of a study share: student, data, recipe and device."""
    add = parser.add_argument
    add("--arch", required=True, metavar="ARCH", help=f"the student: {', '.join(ARCHS)}")
    add(
        "--width",
        type=positive_float,
        default=1.0,
        help="multiplies the channels: mobilenetv2 0.25-1.4, shufflenetv2 0.5, 1.0, 1.5 or 2.0",
    )
    add("--data", default="digits", metavar="NAME_OR_PATH", help="data set (default: digits)")
    add("--data-root", type=folder_path, metavar="DIR", help="where a known data set lies, or goes")
    add("--image-size", type=positive_int, metavar="S", help="side in pixels (default: by data)")
    add("--recipe", metavar="NAME_OR_FILE", help="recipe or .yaml file (default: by data)")
    add("--epochs", type=positive_int, metavar="N", help="instead of the recipe's")
    add("--batch-size", type=positive_int, metavar="N", help="instead of the recipe's; per process")
    add("--device", choices=DEVICES, default="auto")
