"""A new entry of the cache: decodes both splits to files, and leaves broken images out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import UserError
from runtime.base.files import atomic_path
from runtime.base.shown_text import some
from training.config.cache_form import ARRAYS
from training.data.dataset import Geometry
from training.data.file_states import DIGEST_BYTES
from training.data.loading_progress import report
from training.data.row_files import packed_paths
from training.data.source import Contents, Source, check_labels, row_paths
from training.data.split_decoding import (
    Asked,
    DecodedSplits,
    decode_contents,
    splits_to_decode,
)
from training.data.split_twins import groups_of_copies, groups_with_twins, twins_across_splits

GROUPS_FILE = "train_groups.npy"  # empty where there are no groups
SOURCE_DIGESTS = "source_sha256.npy"
FILES = (
    *(
        f"{split}_{what}"
        for split in ("train", "test")
        for what in ("images.npy", "labels.npy", "sha256.npy", "pictures.npy", "paths.bin")
    ),
    GROUPS_FILE,
    SOURCE_DIGESTS,
)
_ENCODED_FILES = (
    *(file for file in FILES if not file.endswith("_images.npy")),
    *(f"{split}_{what}" for split in ("train", "test") for what in ("images.bin", "places.npy")),
)
_MAX_BROKEN_SHARE = 0.01
_MAX_NAMED = 5
_COPIES = "copies.npy"


@dataclass(frozen=True)
class Built:
    """What was decoded into FILES. `skipped` are messages that name the broken images.

    The last `validation_images` of the training files are the validation split. `warnings` are what
    the decoder warned of, and of how many images. `images` are the files of the images by their
    names, which may still lie elsewhere.
    """

    class_names: tuple[str, ...]
    skipped: tuple[str, ...]
    validation_images: int
    warnings: dict[str, int]
    images: dict[str, Path]


def files_of(form: str) -> tuple[str, ...]:
    """The files of an entry in that form of the cache."""
    return FILES if form == ARRAYS else _ENCODED_FILES


def build_entry(
    folder: Path, work: Path, source: Source, geometry: Geometry, asked: Asked
) -> Built:
    """Decodes the source into the files of an entry.

    A test split that was drawn is drawn again if pictures of it are in the training split, too.

    Args:
        folder: gets all files that are not returned with another place.
        work: holds what is decoded. What a killed process left there is not decoded again.
        source: the data set.
        geometry: which pixels are kept.
        asked: what the cache is asked for.

    Raises:
        UserError: if more than 1 % of the images are broken (but one may always be), if they
            leave a class without training images or a split empty, or if the disk has no room.
    """
    contents = source.read()
    if contents.redraw is not None and not source.published:
        contents, decoded = _without_copies(work, source, contents, geometry, asked)
    else:
        decoded = decode_contents(work, source, contents, geometry, asked)
    np.save(folder / SOURCE_DIGESTS, _in_order(source.files, decoded.file_sha256))
    # The entry is JSON, which cannot hold a name that is not UTF-8.
    messages = [
        image.message.encode("utf-8", "backslashreplace").decode()
        for found in decoded.broken.values()
        for image in found
    ]
    _check_broken(source.name, messages, decoded.total)
    groups = decoded.splits["train"][0].groups
    if not source.published:
        images = decoded.stores["train"].images()
        groups = groups_with_twins(images, decoded.pictures["train"], geometry.stored, groups)
    kept = {word: _kept_rows(decoded, word) for word in decoded.splits}
    labels = {word: decoded.splits[word][0].labels[rows] for word, rows in kept.items()}
    broken_ones = sum(image.row >= decoded.trained for image in decoded.broken["train"])
    validation = len(decoded.splits["train"][0].labels) - decoded.trained - broken_ones
    trained = len(labels["train"]) - validation
    _check_whole(source.name, contents, labels, trained, messages)
    files: dict[str, Path] = {}
    for word, rows in kept.items():
        files |= decoded.stores[word].finish(folder, rows)
        _write_facts(folder, word, decoded, rows)
    no_groups = np.zeros(0, np.int64)
    np.save(folder / GROUPS_FILE, no_groups if groups is None else groups[kept["train"]])
    for message in messages:
        report(f"skipped {message}")
    return Built(contents.class_names, tuple(messages), validation, dict(decoded.warnings), files)


def _without_copies(
    work: Path, source: Source, contents: Contents, geometry: Geometry, asked: Asked
) -> tuple[Contents, DecodedSplits]:
    """Decodes splits that were drawn, and once more where copies of one picture were on both sides.

    The groups of those copies are kept in `work`, so that a killed process goes on with the second
    decoding.
    """
    known = work / _COPIES
    if not known.exists():
        decoded = decode_contents(work, source, contents, geometry, asked)
        images = {word: store.images() for word, store in decoded.stores.items()}
        groups, copies = twins_across_splits(images, decoded.pictures, decoded.splits)
        if not copies:
            return contents, decoded
        report(
            f"{source.name}: {copies} test images are also in train; the test images are drawn "
            "again, with copies of one picture on one side, and decoded again"
        )
        with atomic_path(known) as temporary, temporary.open("wb") as file:
            np.save(file, groups)
    both = splits_to_decode(contents, geometry)
    assert contents.redraw is not None
    try:
        contents = contents.redraw(groups_of_copies(np.load(known), both))
    except UserError as error:
        raise UserError(f"{source.name}: {error}") from error
    return contents, decode_contents(work, source, contents, geometry, asked)


def _in_order(files: Sequence[Path], digests: dict[Path, bytes]) -> NDArray[np.uint8]:
    """The digests of the files, uint8 (F, 32)."""
    joined = b"".join(digests[file] for file in files)
    return np.frombuffer(joined, np.uint8).reshape(-1, DIGEST_BYTES)


def _check_broken(name: str, messages: list[str], total: int) -> None:
    allowed = max(1, int(_MAX_BROKEN_SHARE * total))
    if len(messages) > allowed:
        raise UserError(
            f"{name}: {len(messages)} of {total} images are broken, at most {allowed} are skipped; "
            f"mend or remove them: {_named(messages)}"
        )


def _check_whole(
    name: str,
    contents: Contents,
    labels: Mapping[str, NDArray[np.int64]],
    trained: int,
    messages: Sequence[str],
) -> None:
    """Checks that broken images have left no class without training images, and the test some.

    Raises:
        UserError: if they have; it names them.
    """
    skipped = f"; broken images are skipped: {_named(messages)}" if messages else ""
    try:
        check_labels(name, contents.class_names, labels["train"][:trained], labels["test"])
    except UserError as error:
        raise UserError(f"{error}{skipped}") from error


def _named(messages: Sequence[str]) -> str:
    return some(messages, most=_MAX_NAMED, between="; ")


def _kept_rows(decoded: DecodedSplits, word: str) -> NDArray[np.int64]:
    """The rows of a split's images that are not broken."""
    rows = np.arange(len(decoded.splits[word][0].labels))
    return np.delete(rows, [image.row for image in decoded.broken[word]])


def _write_facts(folder: Path, word: str, decoded: DecodedSplits, kept: NDArray[np.int64]) -> None:
    """Writes what is known of the images of a split, beside the images themselves."""
    split, _ = decoded.splits[word]
    np.save(folder / f"{word}_labels.npy", split.labels[kept])
    np.save(folder / f"{word}_sha256.npy", decoded.sha256[word][kept])
    np.save(folder / f"{word}_pictures.npy", decoded.pictures[word][kept])
    paths = split.paths or row_paths(word, range(len(split.labels)))
    (folder / f"{word}_paths.bin").write_bytes(packed_paths([paths[row] for row in kept]))
