"""Turns a run into a bundle of ONNX files, each verified against the trained student.

python export/run.py                                        # runs/latest, float32
python export/run.py runs/NAME --precision fp32,fp16,int8
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from export.bundles.export_options import (
    CALIBRATIONS,
    DEFAULT_OPSET,
    LEGACY_OPSET,
    REQUESTS,
    ExportOptions,
    bundle_of,
    parse_precisions,
)
from export.bundles.listing import megabytes, say, table
from export.bundles.write_bundle import check_place
from runtime.base.command import CommandParser, folder_path, run_command
from runtime.base.errors import VerificationError
from runtime.model.locate import find_run

if TYPE_CHECKING:
    from export.pipeline import Exported, Outcome


def main(arguments: Sequence[str]) -> int:
    """Exports the run that `arguments` name.

    VerificationError if a file is outside its tolerance, after the others have been written.
    """
    options = _parser().parse_args(arguments)
    wanted = ExportOptions(
        precisions=parse_precisions(options.precision),
        opset=options.opset,
        calibration=options.calibration,
        allow_drop=options.allow_drop,
        out=options.out,
    )
    run = find_run(options.run)
    say(f"run: {run}")
    exported = export_and_show(run, wanted)
    # Named in full: without a MODEL, classify takes runs/latest, which may be another run.
    say(f"\nbundle: {exported.bundle}   (`python -m runtime classify {exported.bundle} IMAGE`)")
    return 0


def export_and_show(run: Path, options: ExportOptions) -> "Exported":
    """Exports, says what it does, prints the table; VerificationError as `main`."""
    check_place(bundle_of(run, options))
    from export.pipeline import export_run  # torch: mistakes in the arguments answer sooner

    exported = export_run(run, options, lambda text: say(f"  {text}"))
    say("\n" + _table(exported.outcomes))
    for engine in exported.written.dropped if exported.written else ():
        say(f"removed {engine.path}: its ONNX file changed; build it again")
    failed = [outcome for outcome in exported.outcomes if outcome.complaint is not None]
    for outcome in failed:
        say(f"outside its tolerance: {outcome.record.path}: {outcome.complaint}")
    if failed and not options.allow_drop:
        raise VerificationError(
            f"{', '.join(outcome.record.path for outcome in failed)} not kept: "
            f"{failed[0].complaint}; --allow-drop keeps it in spite of that"
        )
    return exported


def command() -> NoReturn:
    """Runs `main` as a command."""
    run_command(main, extra="export")


def _table(outcomes: "Sequence[Outcome]") -> str:
    head = ("file", "size", "top-1", "change", "agreement", "largest diff.", "ms, batch 1 here")
    return table(head, [_row(outcome) for outcome in outcomes])


def _row(outcome: "Outcome") -> tuple[str, ...]:
    parity = outcome.record.parity
    if parity is None:
        raise AssertionError(f"{outcome.record.path} was not verified")
    return (
        outcome.record.path,
        megabytes(len(outcome.content)),
        f"{parity.top1:.2%}",
        f"{100 * (parity.top1 - parity.reference_top1):+.2f}",
        f"{parity.agreement:.2%}",
        f"{parity.max_difference:.1e}",
        "- (for TensorRT)" if outcome.milliseconds is None else f"{outcome.milliseconds:.2f}",
    )


def _parser() -> argparse.ArgumentParser:
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
        help="how int8 finds its ranges; auto measures all three on held-out training images "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--allow-drop",
        action="store_true",
        help="keep files that are less accurate than their tolerance allows",
    )
    return parser


if __name__ == "__main__":
    command()
