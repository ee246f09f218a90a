"""Builds TensorRT engines into a bundle, verified where a GPU can run them.

python export/build_trt.py                                  # runs/latest, float16
python export/build_trt.py BUNDLE --precision fp16,int8 --compute-capability 8.6,8.9
python export/build_trt.py --list
python export/build_trt.py --verify                         # engines built elsewhere, on their GPU
"""

import re
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from export.bundles.export_options import REQUESTS, Request, parse_precisions
from export.bundles.file_threshold import threshold_lines
from export.bundles.printed_tables import engine_table, say
from export.bundles.write_bundle import check_place
from export.engines.onnx_sources import MissingOnnx, Place, find_onnx, locate
from runtime.backends.registry import backend_named
from runtime.base.command import CommandParser, folder_path, positive_int, run_command
from runtime.base.errors import BackendError, BundleError, UserError, VerificationError
from runtime.base.files import check_writable
from runtime.base.shown_text import pasted
from runtime.evaluation.class_report import SHEET_FILE
from runtime.evaluation.threshold import DEFAULT_MAX_ERROR
from runtime.model.bundle import Bundle, open_bundle, read_card
from runtime.model.card import CARD_FILE, ENGINE_FOLDER, EngineRecord, Profile
from runtime.model.holdout import VALIDATION_FILE

if TYPE_CHECKING:
    from export.engines.bundled_engines import EngineOptions
    from export.engines.flavors import EngineFlavor, Target

_DEFAULT_BATCHES = "1,8,64"
_BATCH_WORDS = ("MIN", "OPT", "MAX")
_MEBIBYTE = 1 << 20
_MOST_MEBIBYTES = 1 << 24  # TensorRT counts bytes in 64 bits; no GPU has as many
_HIGHEST_LEVEL = 5
_OF_BUILDING = (  # options, without which engines are listed or run
    *("precision", "flavor", "batch", "compute_capability", "workspace", "optimization_level"),
    *("data", "data_root"),
)


def main(arguments: Sequence[str]) -> int:
    """Builds what `arguments` ask for, and returns the exit code 0.

    Raises:
        UserError: a mistake in the arguments, or files are missing; BackendError and BundleError
            are of this kind.
        VerificationError: an engine was not kept; the others have been built.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.list:
        parser.refuse_unused(options, (*_OF_BUILDING, "allow_drop", "verify"), "beside --list")
    if options.verify:
        parser.refuse_unused(options, _OF_BUILDING, "beside --verify")
    place = locate(options.model)
    say(f"{'bundle' if place.run is None else 'run'}: {place.run or place.bundle}")
    if options.list:
        return _list(open_bundle(place.bundle))
    check_writable(place.bundle / ENGINE_FOLDER)
    if options.verify:
        return _verify(place, allow_drop=options.allow_drop)
    precisions = parse_precisions(options.precision)
    profile = parse_profile(options.batch)
    flavor, missing = _try_flavor(options.flavor)
    targets = flavor.targets(options.compute_capability) if flavor else ()
    if flavor and options.compute_capability is None and (unknown := flavor.unknown_gpu()):
        say(f"note: {unknown}")
    newest = flavor.newest_opset if flavor else None
    found = find_onnx(place, precisions, newest_opset=newest, allow_drop=options.allow_drop)
    if isinstance(found, MissingOnnx):
        bundle = _export(found, data=options.data, data_root=options.data_root)
    else:
        bundle = found
    if flavor is None:
        raise BackendError(f"{place.bundle} has its ONNX files, and no engine was built: {missing}")
    from export.engines.bundled_engines import EngineOptions, raise_together

    wanted = EngineOptions(
        profile=profile,
        workspace_bytes=_workspace(flavor, options.workspace),
        optimization_level=options.optimization_level,
        allow_drop=options.allow_drop,
    )
    records, refused = _build_all(bundle, flavor, targets, precisions, wanted)
    if records:
        say("")
        _show(bundle, records)
    raise_together(refused)
    return 0


def parse_profile(text: str) -> Profile:
    """The batches of a text such as "1,8,64".

    Raises:
        UserError: they are not three ascending positive numbers.
    """
    numbers = [int(word) for word in text.split(",") if re.fullmatch(r"[1-9]\d{0,5}", word)]
    if len(numbers) != len(text.split(",")) or len(numbers) != len(_BATCH_WORDS):
        raise UserError(
            f"batch {text!r} is not a profile; expected {','.join(_BATCH_WORDS)} such as "
            f"{_DEFAULT_BATCHES}"
        )
    if numbers != sorted(numbers):
        raise UserError(f"batch {text!r} is not ascending; expected such as {_DEFAULT_BATCHES}")
    return Profile(**dict(zip(("min", "opt", "max"), numbers, strict=True)))


def command() -> NoReturn:
    """Runs `main` as a command."""
    run_command(main, extra="export")


def _try_flavor(name: str | None) -> "tuple[EngineFlavor | None, str]":
    """The flavor that builds, or None and what is missing.

    The ONNX files are exported without a flavor, too; what is missing is said after that.
    """
    from export.engines.flavors import load_flavor

    try:
        return load_flavor(name), ""  # type: ignore[arg-type]  # one of the parser's choices
    except BackendError as error:
        return None, str(error)


def _export(missing: MissingOnnx, *, data: str | None, data_root: Path | None) -> Bundle:
    """Exports the missing ONNX files, as `export/run.py` does."""
    bundle = missing.options.bundle_of(missing.run)
    new = not (bundle / CARD_FILE).exists()
    try:
        card = None if new else read_card(bundle)
    except BundleError:  # it is corrupt, and the export makes it anew
        card = None
    # A bundle that was exported without pictures does not get them.
    options = replace(
        missing.options,
        data=data,
        data_root=data_root,
        error_sheet=new or (bundle / SHEET_FILE).exists(),
        validation_images=new
        or (card is not None and card.max_error is None)  # of before there were thresholds
        or (bundle / VALIDATION_FILE).exists(),
        max_error=(card.max_error if card else None) or DEFAULT_MAX_ERROR,
    )
    check_place(bundle)
    from export.pipeline import export_and_report  # torch: needed only if something is exported

    say(f"exporting {', '.join(options.precisions)} with opset {options.opset}")
    return export_and_report(missing.run, options)


def _mebibytes(text: str) -> int:
    """The value of `--workspace`, as the `type` of an option."""
    if (found := positive_int(text)) > _MOST_MEBIBYTES:
        raise ArgumentTypeError(f"received {text!r}, expected at most {_MOST_MEBIBYTES} MiB")
    return found


def _workspace(flavor: "EngineFlavor", mebibytes: int | None) -> int | None:
    """Bytes that the builder may use for a layer; None leaves it to the builder."""
    return flavor.default_workspace() if mebibytes is None else mebibytes * _MEBIBYTE


def _build_all(
    bundle: Bundle,
    flavor: "EngineFlavor",
    targets: "Sequence[Target]",
    precisions: Sequence[Request],
    options: "EngineOptions",
) -> tuple[list[EngineRecord], list[UserError | VerificationError]]:
    """The engines that are in the bundle now, and the reasons why others are not."""
    from export.engines.bundled_engines import add_engine

    capabilities = "; ".join(", ".join(target) for target in targets)
    say(f"{flavor.name} {flavor.version} for compute capability {capabilities}")
    records: list[EngineRecord] = []
    refused: list[UserError | VerificationError] = []
    for precision in precisions:
        for target in targets:
            try:
                record = add_engine(bundle, flavor, precision, target, options, _progress)
            except (UserError, VerificationError) as error:
                refused.append(error)
            else:
                records.append(record)
    return records, refused


def _progress(text: str) -> None:
    say(f"  {text}")


def _show(bundle: Bundle, records: Sequence[EngineRecord]) -> None:
    """Prints a table of engines, their thresholds, and what speaks against some of them."""
    say(engine_table(bundle.path, records))
    for line in threshold_lines(records):
        say(line)
    doubts = (backend_named(record.flavor).doubts.get(record.precision) for record in records)
    for doubt in filter(None, dict.fromkeys(doubts)):
        say(f"note: {doubt}")


def _list(bundle: Bundle) -> int:
    if bundle.card.engines:
        _show(bundle, bundle.card.engines)
    else:
        command = f"python export/build_trt.py {pasted(bundle.path)}"
        say(f"{bundle.path} has no engines; `{command}` builds one")
    return 0


def _verify(place: Place, *, allow_drop: bool) -> int:
    from export.engines.bundled_engines import verify_listed

    try:
        verify_listed(open_bundle(place.bundle), allow_drop=allow_drop, say=_progress)
    finally:
        _list(open_bundle(place.bundle))  # read again: it now has what was measured
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(prog="python export/build_trt.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "model",
        nargs="?",
        type=Path,
        metavar="RUN or BUNDLE",
        help="default: runs/latest; of a run, missing ONNX files are exported first",
    )
    parser.add_argument(
        "--precision",
        default="fp16",
        metavar="LIST",
        help=f"one or more of {','.join(REQUESTS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--flavor",
        choices=("tensorrt", "tensorrt-rtx"),
        help="default: tensorrt if it is installed and there is a GPU, else tensorrt-rtx",
    )
    parser.add_argument(
        "--batch",
        default=_DEFAULT_BATCHES,
        metavar=",".join(_BATCH_WORDS),
        help="batches that the engine takes, and the one it is tuned for (default: %(default)s)",
    )
    parser.add_argument(
        "--compute-capability",
        metavar="LIST",
        help="GPUs to build an engine for each, such as 8.6,8.9; default: this GPU's; without one, "
        "or if tensorrt-rtx does not know it, one engine of tensorrt-rtx for 8.6, 8.9 and 12.0",
    )
    parser.add_argument(
        "--workspace",
        type=_mebibytes,
        metavar="MIB",
        help="memory that the builder may use for a layer; default: 1024, or half of what is free "
        "on the GPU if that is less; tensorrt-rtx: its own default",
    )
    parser.add_argument(
        "--optimization-level",
        type=int,
        choices=range(_HIGHEST_LEVEL + 1),
        metavar=f"0-{_HIGHEST_LEVEL}",
        help="how long the builder searches; default: its own",
    )
    parser.add_argument(
        "--allow-drop",
        action="store_true",
        help="keep files that are less accurate than their tolerance allows",
    )
    parser.add_argument(
        "--data",
        metavar="NAME_OR_PATH",
        help="where the run's data lie now, if they were moved and ONNX files are missing",
    )
    parser.add_argument(
        "--data-root", type=folder_path, metavar="DIR", help="the same for a known data set"
    )
    parser.add_argument("--list", action="store_true", help="print the bundle's engines")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="build nothing: run the bundle's engines that fit this GPU, those too that were built "
        "elsewhere, and enter their accuracy",
    )
    return parser


if __name__ == "__main__":
    command()
