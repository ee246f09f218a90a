"""Where engines go, and the ONNX files that they are built from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from export.bundles.export_options import DEFAULT_OPSET, HALF_SCALES_OPSET, ExportOptions, Request
from runtime.base.errors import BundleError, UserError
from runtime.base.files import sha256_of
from runtime.model.bundle import Bundle, open_bundle, run_word
from runtime.model.card import CARD_FILE
from runtime.model.locate import BUNDLE, CHECKPOINT, latest_run

Export = Callable[[Path, ExportOptions], object]


@dataclass(frozen=True)
class Place:
    """A bundle, which need not exist yet if there is a run that it can be exported from."""

    bundle: Path
    run: Path | None


def locate(path: Path | None) -> Place:
    """The bundle, and the run if there is one, that `path` (None: `runs/latest`) means."""
    path = latest_run() if path is None else path
    if (path / CHECKPOINT).is_file():
        return Place(path / BUNDLE, path)
    if (path / CARD_FILE).is_file():
        return Place(path, None)
    if not path.exists():
        raise UserError(f"{path} does not exist; expected a run or a bundle")
    raise UserError(
        f"{path} is neither a run (no {CHECKPOINT}) nor a bundle (no {CARD_FILE}); train one with "
        "`python training/run.py`, or export one with `python export/run.py`"
    )


def ensure_onnx(
    place: Place,
    precisions: Sequence[Request],
    *,
    newest_opset: int | None,
    allow_drop: bool,
    export: Export,
) -> None:
    """Exports, from the run, the ONNX files that are missing or do not suit the builder.

    `newest_opset` is the newest that it reads; None if there is no builder, and any will do.
    A bundle that is new, or of another checkpoint, also gets the float32 file, which runs
    everywhere. UserError with the command if there is no run to export from.
    """
    bundle = _current(place)
    problems = {name: _problem(bundle, name, newest_opset) for name in precisions}
    missing = [name for name, problem in problems.items() if problem is not None]
    if not missing:
        return
    opset = DEFAULT_OPSET if newest_opset is None else newest_opset
    if place.run is None:
        raise UserError(
            f"{place.bundle} {'; '.join(problems[name] or '' for name in missing)}; export it "
            f"where the run is: `python export/run.py {run_word(place.bundle)} "
            f"--precision {','.join(missing)} "
            f"--opset {opset} --out {place.bundle}`"
        )
    wanted: list[Request] = missing if bundle is not None else ["fp32", *missing]
    export(
        place.run,
        ExportOptions(
            precisions=tuple(dict.fromkeys(wanted)),
            opset=opset,
            allow_drop=allow_drop,
        ),
    )


def _current(place: Place) -> Bundle | None:
    """The bundle as it is; None if it has to be made from the run first."""
    if place.run is None:
        return open_bundle(place.bundle)
    try:
        bundle = open_bundle(place.bundle)
    except BundleError:  # absent, or corrupt: exporting mends it
        return None
    trained = sha256_of(place.run / CHECKPOINT)
    return bundle if bundle.card.provenance.checkpoint_sha256 == trained else None


def _problem(bundle: Bundle | None, precision: Request, newest_opset: int | None) -> str | None:
    """Why a bundle has nothing to build that precision from; None if it has."""
    model = None if bundle is None else bundle.card.file(precision)
    if model is None:
        return f"has no ONNX file of {precision}"
    if newest_opset is None:
        return None
    if model.opset > newest_opset:
        return f"has {model.path} of opset {model.opset}, this TensorRT reads up to {newest_opset}"
    # An older int8 file is for weakly typed TensorRT. A strongly typed one would run the rest of
    # its network in float32.
    if precision == "int8" and model.opset < HALF_SCALES_OPSET <= newest_opset:
        return (
            f"has {model.path} of opset {model.opset}, too old for this TensorRT, which needs "
            f"{HALF_SCALES_OPSET} or newer for int8"
        )
    return None
