"""Turns a run into a bundle of ONNX files, each verified against the trained student.

python export/run.py                                        # runs/latest, float32
python export/run.py runs/NAME --precision fp32,fp16,int8
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from export.bundles.export_options import (
    CALIBRATIONS,
    DEFAULT_OPSET,
    LEGACY_OPSET,
    REQUESTS,
    ExportOptions,
    parse_precisions,
)
from export.bundles.printed_tables import say
from export.bundles.write_bundle import check_place
from runtime.base.command import CommandParser, folder_path, run_command
from runtime.base.shown_text import pasted
from runtime.evaluation.threshold import CONFIDENCE, DEFAULT_MAX_ERROR
from runtime.model.locate import find_run


def main(arguments: Sequence[str]) -> int:
    """Exports the run that `arguments` name, and returns the exit code 0.

    Raises:
        UserError: a mistake in the arguments, or the run cannot be exported.
        VerificationError: a file is outside its tolerance; the others have been written.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    precisions = parse_precisions(options.precision)
    if "int8" not in precisions:
        parser.refuse_unused(options, ("calibration",), "without int8 in --precision")
    wanted = ExportOptions(
        precisions=precisions,
        opset=options.opset,
        calibration=options.calibration,
        allow_drop=options.allow_drop,
        out=options.out,
        data=options.data,
        data_root=options.data_root,
        error_sheet=not options.no_error_sheet,
        max_error=DEFAULT_MAX_ERROR if options.max_error is None else options.max_error,
        require_threshold=options.max_error is not None,
        validation_images=not options.no_validation_images,
    )
    run = find_run(options.run)
    say(f"run: {run}")
    check_place(wanted.bundle_of(run))
    from export.pipeline import export_and_report  # torch: mistakes in the arguments answer sooner

    bundle = export_and_report(run, wanted).path
    # The bundle is named in full: without a MODEL, classify takes runs/latest, which may be
    # another run.
    say(f"\nbundle: {bundle}   (`python -m runtime classify {pasted(bundle)} IMAGE`)")
    return 0


def command() -> NoReturn:
    """Runs `main` as a command."""
    run_command(main, extra="export")


def _parser() -> CommandParser:
    parser = CommandParser(prog="python export/run.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "run", nargs="?", type=Path, metavar="RUN", help="a run folder; default: runs/latest"
    )
    parser.add_argument(
        "--precision",
        default="fp32",
        metavar="LIST",
        help=f"one or more of {','.join(REQUESTS)}; int8 writes a file for TensorRT and one for "
        "the CPU (default: %(default)s)",
    )
    parser.add_argument(
        "--out", type=folder_path, metavar="BUNDLE", help="the bundle's folder; default: RUN/bundle"
    )
    parser.add_argument(
        "--data", metavar="NAME_OR_PATH", help="where the run's data lie now, if they were moved"
    )
    parser.add_argument(
        "--data-root", type=folder_path, metavar="DIR", help="the same for a known data set"
    )
    parser.add_argument(
        "--opset",
        type=int,
        default=DEFAULT_OPSET,
        metavar="N",
        help=f"ONNX opset; {LEGACY_OPSET} is for TensorRT 8.6, whose int8 file newer versions do "
        "not take (default: %(default)s)",
    )
    parser.add_argument(
        "--calibration",
        choices=CALIBRATIONS,
        default="auto",
        help="how int8 finds its ranges; auto takes those that training/qat.py has learned, or "
        "measures all three on images that were not observed (default: %(default)s)",
    )
    parser.add_argument(
        "--allow-drop",
        action="store_true",
        help="keep files that are less accurate than their tolerance allows",
    )
    parser.add_argument(
        "--no-error-sheet",
        action="store_true",
        help="leave the run's errors.png, the picture of the worst mistakes, out of the bundle",
    )
    parser.add_argument(
        "--max-error",
        type=float,
        metavar="SHARE",
        help="the largest share of wrong answers among those that a file accepts, promised with a "
        f"probability of {CONFIDENCE:g} (default: {DEFAULT_MAX_ERROR}, where it can be promised)",
    )
    parser.add_argument(
        "--no-validation-images",
        action="store_true",
        help="leave validation.npz, the images that thresholds are found with, out of the bundle: "
        "engines then get no threshold",
    )
    return parser


if __name__ == "__main__":
    command()
