"""Which bundle gets engines, and whether it has the ONNX files from which they are built."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from export.bundles.export_options import (
    DEFAULT_OPSET,
    HALF_SCALES_OPSET,
    ExportOptions,
    Request,
)
from runtime.base.errors import BundleError, UserError
from runtime.base.files import sha256_of
from runtime.base.shown_text import pasted
from runtime.model.bundle import Bundle, open_bundle, run_word
from runtime.model.card import CARD_FILE
from runtime.model.locate import BUNDLE, CHECKPOINT, latest_run


@dataclass(frozen=True)
class Place:
    """A bundle's folder, and the run that it can be exported from, if there is one.

    The bundle need not exist yet if there is a run.
    """

    bundle: Path
    run: Path | None


@dataclass(frozen=True)
class MissingOnnx:
    """ONNX files that have to be exported from `run` before engines can be built."""

    run: Path
    options: ExportOptions


def locate(path: Path | None) -> Place:
    """The bundle, and the run if there is one, that `path` means; None means `runs/latest`.

    Raises:
        UserError: `path` is neither a run nor a bundle, or there is no `runs/latest`.
    """
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


def find_onnx(
    place: Place, precisions: Sequence[Request], *, newest_opset: int | None, allow_drop: bool
) -> Bundle | MissingOnnx:
    """The bundle, if it has an ONNX file for every precision that suits the builder.

    Otherwise it is said what has to be exported first: the files that are missing or that the
    builder cannot use. A bundle that is new, or of another checkpoint, also gets the float32 file,
    which runs everywhere. `newest_opset` is the newest one that the builder reads; None means that
    there is no builder, and every opset will do.

    Raises:
        UserError: files are missing, and there is no run to export them from; the message has the
            command for the machine with the run.
        BundleError: there is no run, and the bundle's card is corrupt.
    """
    bundle = _current(place)
    problems = {name: _problem(bundle, name, newest_opset) for name in precisions}
    missing = [name for name, problem in problems.items() if problem is not None]
    if bundle is not None and not missing:
        return bundle
    opset = DEFAULT_OPSET if newest_opset is None else newest_opset
    if place.run is None:
        raise UserError(
            f"{place.bundle} {'; '.join(problems[name] or '' for name in missing)}; export it "
            f"where the run is: `python export/run.py {run_word(place.bundle)} "
            f"--precision {','.join(missing)} "
            f"--opset {opset} --out {pasted(place.bundle)}`"
        )
    wanted: list[Request] = missing if bundle is not None else ["fp32", *missing]
    options = ExportOptions(
        precisions=tuple(dict.fromkeys(wanted)), opset=opset, allow_drop=allow_drop
    )
    return MissingOnnx(place.run, options)


def _current(place: Place) -> Bundle | None:
    """The bundle as it is; None if it has to be exported from the run first."""
    if place.run is None:
        return open_bundle(place.bundle)
    try:
        bundle = open_bundle(place.bundle)
    except BundleError:  # there is none, or it is corrupt; an export makes it
        return None
    trained = sha256_of(place.run / CHECKPOINT)
    return bundle if bundle.card.provenance.checkpoint_sha256 == trained else None


def _problem(bundle: Bundle | None, precision: Request, newest_opset: int | None) -> str | None:
    """Why the bundle has no ONNX file from which that precision can be built; None if it has."""
    model = None if bundle is None else bundle.card.file(precision)
    if model is None:
        return f"has no ONNX file of {precision}"
    if newest_opset is None:
        return None
    if model.opset > newest_opset:
        return f"has {model.path} of opset {model.opset}, this TensorRT reads up to {newest_opset}"
    # An int8 file of an older opset is for weakly typed TensorRT. A strongly typed one would run
    # all layers that are not int8 in float32.
    if precision == "int8" and model.opset < HALF_SCALES_OPSET <= newest_opset:
        return (
            f"has {model.path} of opset {model.opset}, too old for this TensorRT, which needs "
            f"{HALF_SCALES_OPSET} or newer for int8"
        )
    return None
