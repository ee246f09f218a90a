"""Builds TensorRT engines into a bundle, verified where a GPU can run them.

python export/build_trt.py                                  # runs/latest, float16
python export/build_trt.py BUNDLE --precision fp16,int8 --compute-capability 8.6,8.9
python export/build_trt.py --list
python export/build_trt.py --verify                         # engines built elsewhere, on their GPU
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from export.bundles.export_options import REQUESTS, ExportOptions, Request, parse_precisions
from export.bundles.listing import megabytes, say, table
from export.bundles.write_bundle import check_writable
from export.engines.onnx_sources import Place, ensure_onnx, locate
from runtime.base.command import CommandParser, positive_int, run_command
from runtime.base.errors import BackendError, UserError, VerificationError
from runtime.model.bundle import open_bundle
from runtime.model.card import ENGINE_FOLDER, EngineRecord, Profile

if TYPE_CHECKING:
    from export.engines.bundled_engines import EngineOptions
    from export.engines.flavors import EngineFlavor

_DEFAULT_BATCHES = "1,8,64"
_BATCH_WORDS = ("MIN", "OPT", "MAX")
_MEBIBYTE = 1 << 20
_HIGHEST_LEVEL = 5


def main(arguments: Sequence[str]) -> int:
    """Builds what `arguments` ask for; the errors are those of `export.engines`.

    VerificationError if an engine was not kept, after the others have been built.
    """
    options = _parser().parse_args(arguments)
    place = locate(options.model)
    if options.list:
        return _list(place)
    check_writable(place.bundle / ENGINE_FOLDER)
    if options.verify:
        return _verify(place, allow_drop=options.allow_drop)
    precisions = parse_precisions(options.precision)
    profile = parse_profile(options.batch)
    flavor, missing = _try_flavor(options.flavor)
    capabilities = flavor.capabilities(options.compute_capability) if flavor else ()
    say(f"{'bundle' if place.run is None else 'run'}: {place.run or place.bundle}")
    ensure_onnx(
        place,
        precisions,
        newest_opset=flavor.newest_opset if flavor else None,
        allow_drop=options.allow_drop,
        export=_export,
    )
    if flavor is None:
        raise BackendError(f"{place.bundle} has its ONNX files, and no engine was built: {missing}")
    from export.engines.bundled_engines import EngineOptions

    wanted = EngineOptions(
        profile=profile,
        workspace_bytes=_workspace(flavor, options.workspace),
        optimization_level=options.optimization_level,
        allow_drop=options.allow_drop,
    )
    records, refused = _build_all(place.bundle, flavor, capabilities, precisions, wanted)
    if records:
        say("\n" + _table(place.bundle, records))
    if refused:
        raise VerificationError("; ".join(str(error) for error in refused))
    return 0


def parse_profile(text: str) -> Profile:
    """The batches of "1,8,64"; UserError if they are not three ascending positive numbers."""
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
    """The flavor that builds; or None and what is missing, said once the bundle is written."""
    from export.engines.flavors import load_flavor

    try:
        return load_flavor(name), ""  # type: ignore[arg-type]  # one of the parser's choices
    except BackendError as error:
        return None, str(error)


def _export(run: Path, options: ExportOptions) -> object:
    from export.run import export_and_show  # torch: only where something has to be exported

    say(f"exporting {', '.join(options.precisions)} with opset {options.opset}")
    return export_and_show(run, options)


def _workspace(flavor: "EngineFlavor", mebibytes: int | None) -> int | None:
    """Bytes that the builder may use for a layer; None leaves it to the builder."""
    if mebibytes is not None:
        return mebibytes * _MEBIBYTE
    if flavor.name == "tensorrt-rtx":
        return None  # it compiles, mostly for other machines' GPUs, and tries nothing out
    from export.engines.builder_memory import workspace_bytes

    return workspace_bytes()


def _build_all(
    bundle: Path,
    flavor: "EngineFlavor",
    capabilities: Sequence[str],
    precisions: Sequence[Request],
    options: "EngineOptions",
) -> tuple[list[EngineRecord], list[VerificationError]]:
    """The engines that are in the bundle now, and why others are not."""
    from export.engines.bundled_engines import add_engine

    say(f"{flavor.name} {flavor.version} for compute capability {', '.join(capabilities)}")
    records: list[EngineRecord] = []
    refused: list[VerificationError] = []
    for precision in precisions:
        for capability in capabilities:
            try:
                record = add_engine(bundle, flavor, precision, capability, options, _progress)
            except VerificationError as error:
                refused.append(error)
            else:
                records.append(record)
    return records, refused


def _progress(text: str) -> None:
    say(f"  {text}")


def _list(place: Place) -> int:
    bundle = open_bundle(place.bundle)
    if bundle.card.engines:
        say(_table(place.bundle, bundle.card.engines))
    else:
        say(
            f"{place.bundle} has no engines; `python export/build_trt.py {place.bundle}` builds one"
        )
    return 0


def _verify(place: Place, *, allow_drop: bool) -> int:
    from export.engines.bundled_engines import verify_listed

    try:
        verify_listed(place.bundle, allow_drop=allow_drop, say=_progress)
    finally:
        _list(place)
    return 0


def _table(bundle: Path, records: Sequence[EngineRecord]) -> str:
    head = ("engine", "size", "batch", "TensorRT", "GPU", "built in", "top-1", "agreement")
    return table(head, [_row(bundle, record) for record in records])


def _row(bundle: Path, record: EngineRecord) -> tuple[str, ...]:
    path, profile, parity = bundle / record.path, record.profile, record.parity
    return (
        record.path,
        megabytes(path.stat().st_size) if path.exists() else "missing",
        f"{profile.min}-{profile.max}, best {profile.opt}",
        f"{record.flavor.removeprefix('tensorrt').strip('-') or 'full'} {record.tensorrt_version}",
        f"{record.gpu_name or 'any'} ({', '.join(record.compute_capability)})",
        "?" if record.build_seconds is None else f"{record.build_seconds:.1f} s",
        "not run" if parity is None else f"{parity.top1:.2%}",
        "not run" if parity is None else f"{parity.agreement:.2%}",
    )


def _parser() -> argparse.ArgumentParser:
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
        help="GPUs to build for, such as 8.6,8.9; default: this GPU's, else 8.6,8.9,12.0",
    )
    parser.add_argument(
        "--workspace",
        type=positive_int,
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
