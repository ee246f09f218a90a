"""Writes bundles so that a reader always finds a whole one: the former one or the new one.

An export writes the whole bundle into a folder beside its place and then exchanges the two folders.
If something stops it (a full disk, Ctrl-C, a kill), the former bundle or the new one is there. Some
file systems cannot exchange folders in one step. There a kill may leave the former bundle beside
its place, under the name `.NAME.*.old`.

Files that stay of a bundle of the same checkpoint are linked into the new one; they are copied if
the file system has no hard links. A reader may read the card before the exchange and a file after
it. Then it is told that the file is not the one that the card lists.
"""

import io
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import msgspec
import numpy as np
from PIL import Image

from runtime.base.errors import BundleError, UserError
from runtime.base.files import (
    atomic_folder,
    check_writable,
    locked,
    remove_abandoned,
    temporaries,
    write_atomic,
)
from runtime.evaluation.gate import complaint, drawn
from runtime.model.bundle import locked_card, read_card, write_card
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
    """What an export left in a bundle.

    Attributes:
        card: the card that is now in the bundle.
        dropped: the engines that were removed, because their ONNX file has changed.
    """

    card: Card
    dropped: Sequence[EngineRecord] = field(default=())


def check_place(folder: Path) -> None:
    """Checks that a bundle can be written to `folder` and may replace what is there.

    Raises:
        UserError: `folder` is a file or a mount point, may not be written to, holds files that are
            no bundle, or is or holds the current folder.
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


def existing_card(folder: Path, checkpoint_sha256: str) -> Card | None:
    """The card in `folder`; None if there is none, it is corrupt, or of another checkpoint."""
    try:
        card = read_card(folder)
    except BundleError:  # there is none, or it is corrupt; a new export makes it
        return None
    return card if card.provenance.checkpoint_sha256 == checkpoint_sha256 else None


def write_bundle(
    folder: Path,
    card: Card,
    files: Sequence[tuple[ModelFile, bytes]],
    test: Labelled,
    *,
    refused: Collection[Precision] = (),
    reports: Mapping[str, bytes | None] = MappingProxyType({}),
) -> Written | None:
    """Writes `files` (records and contents) into the bundle `folder`; `card` says the rest.

    A bundle of the same checkpoint keeps the files that are not made anew. A bundle of another
    checkpoint is replaced whole. `refused` are precisions whose new file was not kept: a former
    file of such a precision stays only if it is within its tolerance, because it may have been kept
    with `--allow-drop`. `test` gives the held-out images. If the bundle had others, the files that
    stay lose what their records say of those. `reports` are other files of the run, by name; one
    that is None is removed from the bundle.

    Returns:
        What is now in the bundle; None if nothing was written, since there is no file and no
        bundle of this checkpoint.

    Raises:
        UserError: as `check_place`.
        OSError: the system refused; the former bundle is still there.
    """
    check_place(folder)
    with _locked_place(folder):
        return _write(folder, card, files, test, refused=refused, reports=reports)


@contextmanager
def _locked_place(bundle: Path) -> Iterator[None]:
    """Holds the locks under which the whole folder `bundle` may be replaced or made.

    A file beside the folder is the lock of those who write whole bundles, also where there is no
    card yet.
    """
    place = bundle.resolve()  # of a link: the folder that it points to
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.with_name(f".{place.name}.lock")
    with locked(beside, create=True):
        try:
            with locked_card(place):
                yield
        finally:
            beside.unlink(missing_ok=True)


def _write(
    folder: Path,
    card: Card,
    files: Sequence[tuple[ModelFile, bytes]],
    test: Labelled,
    *,
    refused: Collection[Precision],
    reports: Mapping[str, bytes | None],
) -> Written | None:
    """What `write_bundle` does while no other process changes the bundle."""
    former = existing_card(folder, card.provenance.checkpoint_sha256)
    if former is None and not files:
        return None
    same_holdout = former is not None and _has_holdout(folder, card, test)
    if former is not None and not same_holdout:
        former = _without_holdout_parity(former)
    merged = _merged(former, card, [record for record, _ in files], refused)
    with atomic_folder(folder) as staging:
        if former is not None:
            _take_over(folder, staging, former, merged)
        for record, content in files:
            write_atomic(staging / record.path, content)
        # Those of a former bundle may have been removed, damaged or drawn otherwise.
        if not (same_holdout and (staging / EXAMPLE_FOLDER).is_dir()):
            _write_examples(staging, card, test)
        for name, report in reports.items():
            if report is None:
                (staging / name).unlink(missing_ok=True)
            else:
                write_atomic(staging / name, report)
        write_card(staging, merged)
    remove_abandoned(folder)
    engines = former.engines if former is not None else ()
    return Written(merged, [engine for engine in engines if engine not in merged.engines])


def _merged(
    former: Card | None, card: Card, made: Sequence[ModelFile], refused: Collection[Precision]
) -> Card:
    """`card` with the files that are `made`, the former files that stay, and their engines."""
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
    """Links the content of the bundle into `staging`, without files that are no longer listed."""
    gone = {folder / path for path in _listed(former) - _listed(merged)}
    for place in (folder, folder / ENGINE_FOLDER, folder / EXAMPLE_FOLDER):
        gone.update(temporaries(place))  # left by processes that were killed
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
    # A file with two names is safe here: a file is never written in place, but always replaced.
    try:
        os.link(path, target, follow_symlinks=False)
    except OSError:  # no hard links (FAT), too many of them, or a file of another user
        shutil.copy2(path, target, follow_symlinks=False)


def _has_holdout(folder: Path, card: Card, test: Labelled) -> bool:
    """Whether the bundle has the held-out images that are drawn of `test`."""
    try:
        held = read_holdout(folder, card)
    except BundleError:
        return False
    now = drawn(test)
    return np.array_equal(held.images, now.images) and np.array_equal(held.labels, now.labels)


def _without_holdout_parity(card: Card) -> Card:
    """`card` for a bundle that gets other held-out images than its files answered."""
    files = (msgspec.structs.replace(file, holdout_parity=None) for file in card.files)
    return msgspec.structs.replace(card, files=tuple(files))


def _write_examples(folder: Path, card: Card, test: Labelled) -> None:
    """Writes the held-out arrays and the example pictures."""
    write_atomic(folder / HOLDOUT_FILE, holdout_bytes(test))
    for name, image in _examples(card.class_names, test).items():
        write_atomic(folder / EXAMPLE_FOLDER / name, image)


def holdout_bytes(test: Labelled) -> bytes:
    """The content of `holdout.npz`: what is drawn of `test`, with labels and probabilities."""
    file = io.BytesIO()
    np.savez_compressed(file, **vars(drawn(test)))
    return file.getvalue()


def _examples(class_names: Sequence[str], test: Labelled) -> Mapping[str, bytes]:
    """The first test image of up to twelve classes, evenly spread, as PNG files by their name."""
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
