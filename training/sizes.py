"""Parameters and MACs of every student: `python training/sizes.py`, a Markdown table."""

from collections.abc import Sequence
from typing import NoReturn

from runtime.base.command import CommandParser, positive_int, run_command
from training.config.archs import ARCHS, MOBILENET, SHUFFLENET, SHUFFLENET_WIDTHS

_IMAGE_SIZES = (28, 32, 64, 160, 224)
_WIDTHS = {MOBILENET: (0.25, 0.5, 0.75, 1.0, 1.4), SHUFFLENET: SHUFFLENET_WIDTHS}


def main(arguments: Sequence[str]) -> int:
    """Prints the parameters of each student, and its MACs for an image of each size."""
    options = _parser().parse_args(arguments)
    import torch  # takes seconds, so the options are checked before

    from training.networks.students import build_student, cost_of

    sizes = " | ".join(f"{size} px" for size in _IMAGE_SIZES)
    print(f"| student ({options.classes} classes) | parameters | MACs at {sizes} |")  # noqa: T201
    print("|" + "---|" * (2 + len(_IMAGE_SIZES)))  # noqa: T201
    for arch in [options.arch] if options.arch else ARCHS:
        for width in _WIDTHS.get(arch, (1.0,)):
            cells, params = [], 0
            for size in _IMAGE_SIZES:
                with torch.device("meta"):
                    student = build_student(
                        arch, num_classes=options.classes, image_size=size, width=width
                    )
                cost = cost_of(student, image_size=size)
                params = cost.params
                cells.append(f"{cost.macs / 1e6:,.1f} M")
            name = f"{arch} x{width:g}" if arch in _WIDTHS else arch
            print(f"| {name} | {params / 1e6:.2f} M | {' | '.join(cells)} |")  # noqa: T201
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(prog="python training/sizes.py", description=__doc__)
    parser.add_argument("--arch", choices=ARCHS, help="only this one")
    parser.add_argument("--classes", type=positive_int, default=100)
    return parser


def command() -> NoReturn:
    run_command(main, extra="train")


if __name__ == "__main__":
    command()
