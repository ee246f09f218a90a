"""Bundles on disk: assembled so that a reader finds the former one or the new one.

An export writes the whole bundle beside its place and then exchanges the two: whatever stops it (a
full disk, Ctrl-C, a kill) leaves the former bundle or the new one. Only where the file system
cannot exchange folders in one step may a kill leave the former one beside its place, under the
name `.NAME.*.old`. What stays of a bundle of the same checkpoint is linked into the new one, or
copied where there are no hard links. A reader that took the card before the exchange and a file
after it is told that the file is not what the card lists.
"""

import io
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from export.bundles.draw_holdout import holdout_bytes
from export.bundles.gate import complaint
from runtime.base.errors import BundleError, UserError
from runtime.base.files import atomic_folder, remove_abandoned, temporaries, write_atomic
from runtime.model.bundle import read_card, write_card
from runtime.model.card import (
    CARD_FILE,
    ENGINE_FOLDER,
    EXAMPLE_FOLDER,
    HOLDOUT_FILE,
    MODEL_FILES,
    Card,
    EngineRecord,
    ModelFile,
    Precision,
    example_names,
)
from runtime.model.holdout import Labelled, read_holdout

MAX_EXAMPLES = 12


@dataclass(frozen=True)
class Written:
    """The card that is now in the bundle, and the engines that no longer fit it."""

    card: Card
    dropped: Sequence[EngineRecord] = field(default=())


def check_place(folder: Path) -> None:
    """UserError if a bundle cannot take the place of `folder`, or should not.

    It should not if `folder` holds something that is not a bundle, and so is not ours to replace,
    or if somebody's shell is in it.
    """
    if folder.is_file():
        raise UserError(f"{folder} is a file; expected a folder for the bundle, which may be new")
    if folder.resolve().is_mount():
        raise UserError(f"{folder} is a mount point, which stays in its place; use a folder in it")
    check_writable(folder)
    check_writable(folder.resolve().parent)
    if folder.is_dir() and not (folder / CARD_FILE).exists() and any(folder.iterdir()):
        raise UserError(
            f"{folder} holds files and is no bundle (no {CARD_FILE}); choose another --out"
        )
    if Path.cwd().is_relative_to(folder.resolve()):
        raise UserError(f"{folder} is, or holds, the folder you are in; choose another --out")


def check_writable(folder: Path) -> None:
    """UserError if files cannot be made in `folder`, or it in the first of its parents there is.

    Asked before work that takes minutes. A full disk, or a system's other reasons, show only then.
    """
    place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(
            f"{place} may not be written to by this user; change that, or choose another folder"
        )


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

    A bundle of the same checkpoint keeps what is not made anew, one of another goes.

    None if there is nothing to list: no file, and no bundle of this checkpoint to keep.
    Of the `refused` precisions, which were made and not kept, a former file stays only if it is
    within its tolerance: it may have been let through then.
    """
    check_place(folder)
    former = existing_card(folder, card.provenance.checkpoint_sha256)
    if former is None and not files:
        return None
    merged = _merged(former, card, [record for record, _ in files], refused)
    with atomic_folder(folder) as staging:
        if former is not None:
            _take_over(folder, staging, former, merged)
        for record, content in files:
            write_atomic(staging / record.path, content)
        if not _has_examples(staging):  # new, or removed or damaged since: this mends it
            _write_examples(staging, card, test)
        write_card(staging, merged)
    remove_abandoned(folder)
    engines = former.engines if former is not None else ()
    return Written(merged, [engine for engine in engines if engine not in merged.engines])


def _merged(
    former: Card | None, card: Card, made: Sequence[ModelFile], refused: Collection[Precision]
) -> Card:
    """`card` with the files that are `made`, those of the former card that stay, their engines."""
    records = {}
    engines: Sequence[EngineRecord] = ()
    if former is not None:
        stays = [file for file in former.files if file.precision not in refused or _passes(file)]
        records = {file.precision: file for file in stays}
        engines = former.engines
    records.update({record.precision: record for record in made})
    ordered = tuple(records[name] for name in MODEL_FILES if name in records)
    digests = {record.sha256 for record in ordered}
    fitting = tuple(engine for engine in engines if engine.onnx_sha256 in digests)
    return msgspec.structs.replace(card, files=ordered, engines=fitting)


def _passes(file: ModelFile) -> bool:
    return file.parity is not None and complaint(file.parity, file.precision) is None


def _take_over(folder: Path, staging: Path, former: Card, merged: Card) -> None:
    """Links into `staging` what lies in the bundle, less what only the former card lists."""
    gone = {folder / path for path in _listed(former) - _listed(merged)}
    for place in (folder, folder / ENGINE_FOLDER, folder / EXAMPLE_FOLDER):
        gone.update(temporaries(place))  # of killed processes
    shutil.copymode(folder, staging)
    for path in sorted(folder.rglob("*")):
        target = staging / path.relative_to(folder)
        if path.is_dir() and not path.is_symlink():
            target.mkdir()
            shutil.copymode(path, target)
        elif path not in gone:
            _link_or_copy(path, target)


def _listed(card: Card) -> set[str]:
    return {file.path for file in card.files} | {engine.path for engine in card.engines}


def _link_or_copy(path: Path, target: Path) -> None:
    # A file with two names is safe here: nothing writes into a file, all is renamed to its place.
    try:
        os.link(path, target, follow_symlinks=False)
    except OSError:  # no hard links (FAT), no more of them, or a file of somebody else
        shutil.copy2(path, target, follow_symlinks=False)


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
