"""Trains a finished run's student for int8: `python training/qat.py RUN`.

The student learns, through simulated int8 numbers, to answer as its own float32 self does, and the
ranges of its activations are learned with it. The new run has the float32 student as it was, and
`python export/run.py` writes its int8 file of that kind with what was learned. RUN is left alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from runtime.base.command import CommandParser, folder_path, positive_int, run_command
from training.config.options import DEVICES
from training.quantization.qdq_rules import KINDS, Kind


@dataclass(frozen=True, kw_only=True)
class QatOptions:
    """What `training/qat.py` is asked for."""

    run: Path
    epochs: int | None
    kind: Kind
    out: Path | None
    resume: bool
    data: str | None
    data_root: Path | None
    device: str


def main(arguments: Sequence[str]) -> int:
    """Trains, and prints where the new run is and what to do with it.

    Raises:
        UserError: there is no such run, it is not finished, or its data or student do not allow it.
    """
    options = QatOptions(**vars(_parser().parse_args(arguments)))

    from training.train_int8 import train_int8  # torch takes seconds to import

    return train_int8(
        options.run,
        epochs=options.epochs,
        kind=options.kind,
        out=options.out,
        resume=options.resume,
        data=options.data,
        data_root=options.data_root,
        device_word=options.device,
    )


def command() -> NoReturn:
    run_command(main, extra="train")


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python training/qat.py",
        description=__doc__,
        epilog="Example: python training/qat.py runs/latest --kind int8-cpu",
    )
    parser.add_argument("run", type=folder_path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument(
        "--epochs",
        type=positive_int,
        metavar="N",
        help="default: a tenth of the run's own, and at least 2",
    )
    parser.add_argument(
        "--kind",
        choices=KINDS,
        default=KINDS[0],
        help="the file whose numbers are learned: int8 for TensorRT, int8-cpu for ONNX Runtime on "
        "a CPU (default: %(default)s)",
    )
    parser.add_argument(
        "--out", type=folder_path, metavar="DIR", help="folder of the new run (default: RUN-KIND)"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the new run's checkpoint")
    parser.add_argument(
        "--data", metavar="NAME_OR_PATH", help="where the run's data lie now, if they were moved"
    )
    parser.add_argument(
        "--data-root", type=folder_path, metavar="DIR", help="the same for a known data set"
    )
    parser.add_argument("--device", choices=DEVICES, default="auto")
    return parser


if __name__ == "__main__":
    command()
