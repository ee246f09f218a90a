"""Where engines go, and the ONNX files that they are built from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from export.options import DEFAULT_OPSET, ExportOptions, Request
from runtime.bundle import Bundle, open_bundle
from runtime.card import CARD_FILE
from runtime.errors import BundleError, UserError
from runtime.files import sha256_of
from runtime.locate import BUNDLE, CHECKPOINT, latest_run

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
    newest_opset: int = DEFAULT_OPSET,
    allow_drop: bool,
    export: Export,
) -> None:
    """Exports, from the run, the ONNX files that are missing or too new to be read.

    A bundle that is new, or of another checkpoint, also gets the float32 file, which runs
    everywhere. UserError with the command if there is no run to export from.
    """
    bundle = _current(place)
    missing = [
        name for name in precisions if bundle is None or not _fits(bundle, name, newest_opset)
    ]
    if not missing:
        return
    if place.run is None:
        raise UserError(
            f"{place.bundle} has no ONNX file of {', '.join(missing)} with an opset up to "
            f"{newest_opset}; export it where the run is: `python export/run.py RUN --precision "
            f"{','.join(missing)} --opset {newest_opset} --out {place.bundle}`"
        )
    wanted: list[Request] = missing if bundle is not None else ["fp32", *missing]
    export(
        place.run,
        ExportOptions(
            precisions=tuple(dict.fromkeys(wanted)),
            opset=newest_opset,
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


def _fits(bundle: Bundle | None, precision: Request, newest_opset: int) -> bool:
    model = None if bundle is None else bundle.card.file(precision)
    return model is not None and model.opset <= newest_opset
