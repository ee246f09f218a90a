"""Decoded data sets as memory-mapped files, shared by all runs of a machine.

An entry is a folder named after its key, which is a digest of the source's fingerprint, the
geometry, and the code that decodes. It is written under a temporary name, synced and renamed: it is
whole or absent. A second process that needs the same entry waits for the first one. What a killed
process has decoded lies beside it, and is not decoded again (`decode_journal`). Checksums find
entries that were damaged later, block by block, fast enough for every start of a run.

The key knows a file by its name, size and time of modification. One that was replaced by another of
the same three is found by what the entry knows of it beside (`file_states`).
"""

import contextlib
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import PIL
from numpy.typing import NDArray

from runtime.base.files import atomic_folder, cache_root, leftovers
from runtime.model.card import InputSpec
from training.config.cache_form import ARRAYS, jpeg_quality
from training.data.block_checksums import Checksums, checksums_of, verify_file
from training.data.cache_entry import (
    GROUPS_FILE,
    SOURCE_DIGESTS,
    build_entry,
    files_of,
)
from training.data.cache_room import size_words, used_by
from training.data.dataset import Dataset, Geometry
from training.data.decode import decoding_code
from training.data.decode_journal import done_in
from training.data.encoded_store import open_encoded, places_file
from training.data.file_states import first_replaced, other_states, states_of, write_states
from training.data.loading_progress import report
from training.data.locks import locked
from training.data.row_files import unpacked_paths
from training.data.source import BROKEN, Source
from training.data.split_decoding import Asked
from training.data.worker_pool import KilledWorkerError

ENTRY_FILE = "entry.json"
_STATES = "source_states.npy"  # beside the files with checksums: it changes with the data's place
_FORMAT = 2
# After these, what is decoded is kept: the same command goes on when there is room or memory again.
_GOES_ON = (OSError, KilledWorkerError)


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an entry's folder holds, and the checksums by which damage is found.

    `skipped` are messages that name the images that could not be decoded. The last
    `validation_images` of the training files are the validation split. `warnings` are what the
    decoder warned of, and of how many images.
    """

    key: str
    class_names: tuple[str, ...]
    skipped: tuple[str, ...]
    files: dict[str, Checksums]
    validation_images: int = 0
    warnings: dict[str, int] = {}
    format: int = 1


def load_cached(
    source: Source,
    geometry: Geometry,
    *,
    progress: bool,
    refresh: bool = False,
    form: str = ARRAYS,
) -> Dataset:
    """The decoded data set from the cache; if it is not there, it is decoded into the cache.

    With `refresh` it is decoded again in any case. `form` says how pictures are kept.

    Raises:
        UserError: if too many images are broken, or the cache cannot be written.
    """
    key = _key(source, geometry, form)
    folder = (
        cache_root() / form.partition(":")[0] / f"{source.name}-{geometry.input.size}-{key[:16]}"
    )
    # Before anything is read: a file that is replaced from now on has another state at the next
    # start.
    states = states_of(source.files)
    entry = None if refresh else _read_entry(folder, key, form)
    if entry is None or len(other_states(folder / _STATES, states)):
        with locked(folder):
            # Another process may have finished it while this one waited.
            entry = None if refresh else _read_entry(folder, key, form)
            if entry is not None and not _same_files(folder, source, states, progress=progress):
                entry = None
            if entry is None:
                _say_older(folder)
                writing = _Writing(folder, source, geometry, states, Asked(key, form, progress))
                entry = writing.write(refresh=refresh)
    if entry.skipped:
        report(f"{source.name}: {len(entry.skipped)} broken images skipped ({folder}/{ENTRY_FILE})")
    for words, count in sorted(entry.warnings.items()):
        report(f"{source.name}: {count} images of this kind: {words}")
    broken = {BROKEN: len(entry.skipped)} if entry.skipped else {}
    groups = np.load(folder / GROUPS_FILE)
    return Dataset(
        name=source.name,
        class_names=entry.class_names,
        input=geometry.input,
        train_images=_images(folder, "train", geometry.stored, form),
        train_labels=np.load(folder / "train_labels.npy"),
        test_images=_images(folder, "test", geometry.input, form),
        test_labels=np.load(folder / "test_labels.npy"),
        validation_images=entry.validation_images,
        train_paths=unpacked_paths((folder / "train_paths.bin").read_bytes()),
        test_paths=unpacked_paths((folder / "test_paths.bin").read_bytes()),
        left_out={**source.left_out, **broken},
        train_groups=groups if len(groups) else None,
        train_sha256=np.load(folder / "train_sha256.npy"),
        test_sha256=np.load(folder / "test_sha256.npy"),
        train_pictures=np.load(folder / "train_pictures.npy"),
        test_pictures=np.load(folder / "test_pictures.npy"),
        jpeg_quality=jpeg_quality(form),
        warnings=source.warnings,
    )


def _images(folder: Path, word: str, spec: InputSpec, form: str) -> NDArray[np.uint8]:
    """The images of a split: a read-only memory map, or pictures that are decoded when read."""
    if form == ARRAYS:
        rows: NDArray[np.uint8] = np.load(folder / f"{word}_images.npy", mmap_mode="r")
        return rows
    file = folder / f"{word}_images.bin"
    return open_encoded(file, np.load(places_file(file)), spec)


def _key(source: Source, geometry: Geometry, form: str) -> str:
    """A digest of all that decides the arrays, and of the text of the code that decodes.

    So whoever changes that code need not think of a version number.
    """
    digest = hashlib.sha256(f"{_FORMAT} Pillow {PIL.__version__}\n".encode())
    digest.update(msgspec.json.encode((source.name, source.fingerprint, source.published)))
    digest.update(msgspec.json.encode((geometry.input, geometry.stored)))
    digest.update(decoding_code().encode())
    if form != ARRAYS:
        digest.update(f"\0{form}".encode())
    return digest.hexdigest()


def _read_entry(folder: Path, key: str, form: str) -> Entry | None:
    """The entry in `folder`. None if there is none, or an older one, or a damaged one.

    Damage is reported.
    """
    if not folder.exists():
        return None
    try:
        return _verified_entry(folder, key, form)
    except (OSError, ValueError) as error:  # msgspec.DecodeError is a ValueError
        report(f"the data cache {folder} is damaged ({error}); it is made again")
        return None


def _same_files(folder: Path, source: Source, states: NDArray[np.int64], *, progress: bool) -> bool:
    """Whether the source's files hold what was decoded into the entry.

    Then the entry gets their new states, so that they need not be read the next time.
    """
    suspects = other_states(folder / _STATES, states)
    if not len(suspects):
        return True
    digests = np.load(folder / SOURCE_DIGESTS)
    replaced = first_replaced(source.files, suspects, digests, name=source.name, show=progress)
    if replaced is not None:
        report(
            f"{replaced} was replaced by another file of the same name, size and time; "
            f"{source.name} is decoded again"
        )
        return False
    with contextlib.suppress(OSError):  # whoever may only read the cache compares again
        write_states(folder / _STATES, states)
    return True


def _say_older(folder: Path) -> None:
    """Says which entries of the same data and size are of an older format, and no longer read."""
    for older in sorted(folder.parent.glob(f"{folder.name.rpartition('-')[0]}-*")):
        try:
            entry = msgspec.json.decode((older / ENTRY_FILE).read_bytes(), type=Entry)
        except (OSError, ValueError):
            continue
        if entry.format < _FORMAT:
            report(
                f"the data cache {older} is of an older version, without the images' paths; "
                "it is made again beside it, and the old one may be removed"
            )


def _say_unfinished(work: Path) -> None:
    """Says what killed processes have decoded of other data of the same name and size."""
    for other in sorted(work.parent.glob(f"{work.name.rpartition('-')[0]}-*.part")):
        if other != work:
            size = size_words(used_by(other.glob("*_images.*")))
            report(
                f"{other} has {size} of pictures that an ended process has decoded, of files as "
                "they were then; remove it if nobody goes on with it"
            )


def _verified_entry(folder: Path, key: str, form: str) -> Entry | None:
    entry = msgspec.json.decode((folder / ENTRY_FILE).read_bytes(), type=Entry)
    if entry.format < _FORMAT:
        return None
    if entry.key != key or set(entry.files) != set(files_of(form)):
        raise ValueError(f"{ENTRY_FILE} is of another entry")
    # Beside the entry, which is never changed.
    known = folder.with_name(f".{folder.name}.verified.npy")
    states = states_of(folder / name for name in sorted(entry.files))
    unchanged = not len(other_states(known, states))
    for name, checksums in entry.files.items():
        verify_file(folder / name, checksums, unchanged=unchanged)
    if not unchanged:
        with contextlib.suppress(OSError):  # whoever may only read the cache checks again
            write_states(known, states)
    return entry


@dataclass(frozen=True)
class _Writing:
    """The making of an entry. `states` are those of the source's files before it began."""

    folder: Path
    source: Source
    geometry: Geometry
    states: NDArray[np.int64]
    asked: Asked

    def write(self, *, refresh: bool) -> Entry:
        """Decodes the source into the folder; the caller holds its lock."""
        for path in leftovers(self.folder):  # killed processes left them
            shutil.rmtree(path, ignore_errors=True)
        # In it a killed process left what it had decoded, if the files are still the same.
        work = self.folder.with_name(f".{self.folder.name}.part")
        _say_unfinished(work)
        if refresh or len(other_states(work / _STATES, self.states)):
            shutil.rmtree(work, ignore_errors=True)
        try:
            with atomic_folder(self.folder) as temporary:
                entry = self._fill(temporary, work)
        except BaseException as error:
            _leave(work, keep=isinstance(error, _GOES_ON) or not isinstance(error, Exception))
            raise
        shutil.rmtree(work, ignore_errors=True)
        return entry

    def _fill(self, temporary: Path, work: Path) -> Entry:
        work.mkdir(exist_ok=True)
        write_states(work / _STATES, self.states)
        built = build_entry(temporary, work, self.source, self.geometry, self.asked)
        names = files_of(self.asked.form)
        places = {name: built.images.get(name, temporary / name) for name in names}
        entry = Entry(
            key=self.asked.key,
            class_names=built.class_names,
            skipped=built.skipped,
            files={name: checksums_of(place) for name, place in places.items()},
            validation_images=built.validation_images,
            warnings=built.warnings,
            format=_FORMAT,
        )
        for name, place in places.items():
            place.rename(temporary / name)
        write_states(temporary / _STATES, self.states)
        (temporary / ENTRY_FILE).write_bytes(msgspec.json.encode(entry))
        return entry


def _leave(work: Path, *, keep: bool) -> None:
    """Keeps what is decoded for the next start, if there is any; otherwise removes it."""
    journals = list(work.glob("*.journal")) if keep else []
    done = sum(len(stored.decoded.rows) for path in journals for stored in done_in(path))
    if done:
        report(f"{done:,} decoded pictures are kept in {work}; the same command goes on with them")
    else:
        shutil.rmtree(work, ignore_errors=True)
