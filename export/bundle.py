"""Bundles on disk: assembled so that a reader finds the former one or the new one.

A new bundle, or that of another checkpoint, is written beside its place and moved there whole.
Files are added to a bundle of the same checkpoint one by one, and the card, which lists them, last:
who opens a file in between that is being made anew is told that it is not what the card lists.
"""

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from export.gate import complaint
from export.holdout import holdout_bytes
from runtime.card import (
    CARD_FILE,
    EXAMPLE_FOLDER,
    HOLDOUT_FILE,
    MODEL_FILES,
    Card,
    EngineRecord,
    ModelFile,
    Precision,
    example_names,
    read_card,
    write_card,
)
from runtime.errors import BundleError, UserError
from runtime.files import atomic_folder, write_atomic
from runtime.holdout import Labelled, read_holdout

MAX_EXAMPLES = 12


@dataclass(frozen=True)
class Written:
    """The card that is now in the bundle, and the engines that no longer fit it."""

    card: Card
    dropped: Sequence[EngineRecord] = field(default=())


def check_place(folder: Path) -> None:
    """UserError if `folder` holds something that is not a bundle, and so is not ours to replace.

    Or if somebody's shell is in it: a bundle of another checkpoint takes the place of the folder.
    """
    if folder.is_file():
        raise UserError(f"{folder} is a file; expected a folder for the bundle, which may be new")
    if folder.is_dir() and not (folder / CARD_FILE).exists() and any(folder.iterdir()):
        raise UserError(
            f"{folder} holds files and is no bundle (no {CARD_FILE}); choose another --out"
        )
    if Path.cwd().is_relative_to(folder.resolve()):
        raise UserError(f"{folder} is, or holds, the folder you are in; choose another --out")


def existing_card(folder: Path, checkpoint_sha256: str) -> Card | None:
    """The card in `folder` if it is of that checkpoint; None if there is none, or another's."""
    try:
        card = read_card(folder)
    except BundleError:  # absent, or corrupt: a new export is how to mend it
        return None
    return card if card.provenance.checkpoint_sha256 == checkpoint_sha256 else None


def write_bundle(
    folder: Path,
    card: Card,
    files: Sequence[tuple[ModelFile, bytes]],
    test: Labelled,
    *,
    refused: Collection[Precision] = (),
) -> Written | None:
    """Writes `files` with their records; `card` says the rest. See the module's first lines.

    None if there is nothing to list: no file, and no bundle of this checkpoint to keep.
    Of the `refused` precisions, which were made and not kept, a former file stays only if it is
    within its tolerance: it may have been let through then.
    """
    former = existing_card(folder, card.provenance.checkpoint_sha256)
    if former is not None:
        stays = [file for file in former.files if file.precision not in refused or _passes(file)]
        former_stays = msgspec.structs.replace(former, files=stays)
        written = _add_files(folder, former_stays, card, files, test)
        for file in former.files:
            if written.card.file(file.precision) is None:
                (folder / file.path).unlink(missing_ok=True)
        return written
    if not files:
        return None
    check_place(folder)
    card = msgspec.structs.replace(card, files=tuple(record for record, _ in files))
    with atomic_folder(folder) as staging:
        for record, content in files:
            write_atomic(staging / record.path, content)
        _write_examples(staging, card, test)
        write_card(staging, card)
    return Written(card)


def _passes(file: ModelFile) -> bool:
    return file.parity is not None and complaint(file.parity, file.precision) is None


def _add_files(
    folder: Path,
    former: Card,
    card: Card,
    files: Sequence[tuple[ModelFile, bytes]],
    test: Labelled,
) -> Written:
    for record, content in files:
        write_atomic(folder / record.path, content)
    if not _has_examples(folder):  # removed or damaged since: this command is named to mend it
        _write_examples(folder, card, test)
    records = {file.precision: file for file in former.files}
    records.update({record.precision: record for record, _ in files})
    ordered = tuple(records[name] for name in MODEL_FILES if name in records)
    digests = {record.sha256 for record in ordered}
    kept = tuple(engine for engine in former.engines if engine.onnx_sha256 in digests)
    dropped = [engine for engine in former.engines if engine not in kept]
    merged = msgspec.structs.replace(card, files=ordered, engines=kept)
    write_card(folder, merged)
    for engine in dropped:
        (folder / engine.path).unlink(missing_ok=True)
    return Written(merged, dropped)


def _has_examples(folder: Path) -> bool:
    try:
        read_holdout(folder)
    except BundleError:
        return False
    return (folder / EXAMPLE_FOLDER).is_dir()


def _write_examples(folder: Path, card: Card, test: Labelled) -> None:
    """The held-out arrays and the example pictures."""
    write_atomic(folder / HOLDOUT_FILE, holdout_bytes(test))
    for name, image in _examples(card.class_names, test).items():
        write_atomic(folder / EXAMPLE_FOLDER / name, image)


def _examples(class_names: Sequence[str], test: Labelled) -> Mapping[str, bytes]:
    """The first test image of up to twelve classes, spread over all of them, as PNG files."""
    present = np.unique(test.labels)
    chosen = present[np.linspace(0, len(present) - 1, min(len(present), MAX_EXAMPLES)).astype(int)]
    names = example_names(class_names)
    files = {}
    for label in chosen:
        row = int(np.argmax(test.labels == label))
        file = io.BytesIO()
        Image.fromarray(test.images[row]).save(file, "PNG")
        files[f"{names[label]}.png"] = file.getvalue()
    return files
