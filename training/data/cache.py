"""Decoded data sets as memory-mapped files, shared by all runs of a machine.

An entry is a folder named after its key: the fingerprint of the source, the geometry, and the code
that decodes. It is written under a temporary name, synced and renamed, so it is whole or absent. A
lock, which the system frees when its process dies, makes a second process wait instead of decoding
the same.
"""

import hashlib
import inspect
import shutil
from pathlib import Path

import msgspec
import numpy as np
import PIL

from runtime.base.cache_folder import cache_root
from runtime.base.files import atomic_folder, leftovers
from runtime.model import preprocess
from training.data import blocks, decode
from training.data import cache_entry as build
from training.data.dataset import Dataset
from training.data.geometry import Geometry
from training.data.loading_progress import report
from training.data.locks import locked
from training.data.source import Source

ENTRY_FILE = "entry.json"
_FORMAT = 1


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an entry's folder holds, and the checksums by which damage is found."""

    key: str
    class_names: tuple[str, ...]
    skipped: tuple[str, ...]  # messages that name the images that could not be decoded
    files: dict[str, blocks.Checksums]


def load_cached(source: Source, geometry: Geometry, *, progress: bool) -> Dataset:
    """The decoded data set: from the cache, or decoded now into the cache."""
    key = _key(source, geometry)
    folder = cache_root() / "arrays" / f"{source.name}-{geometry.input.size}-{key[:16]}"
    entry = _read_entry(folder, key)
    if entry is None:
        with locked(folder):
            # Another process may have finished it while this one waited.
            entry = _read_entry(folder, key)
            if entry is None:
                entry = _write_entry(folder, key, source, geometry, progress=progress)
    if entry.skipped:
        report(f"{source.name}: {len(entry.skipped)} broken images skipped ({folder}/{ENTRY_FILE})")
    return Dataset(
        name=source.name,
        class_names=entry.class_names,
        input=geometry.input,
        train_images=np.load(folder / "train_images.npy", mmap_mode="r"),
        train_labels=np.load(folder / "train_labels.npy"),
        test_images=np.load(folder / "test_images.npy", mmap_mode="r"),
        test_labels=np.load(folder / "test_labels.npy"),
    )


def _key(source: Source, geometry: Geometry) -> str:
    """Includes the text of the code that decodes, so that changing it needs no version number."""
    digest = hashlib.sha256(f"{_FORMAT} Pillow {PIL.__version__}\n".encode())
    digest.update(msgspec.json.encode((source.name, source.fingerprint)))
    digest.update(msgspec.json.encode((geometry.input, geometry.stored)))
    digest.update(inspect.getsource(preprocess).encode())
    digest.update(inspect.getsource(decode).encode())
    return digest.hexdigest()


def _read_entry(folder: Path, key: str) -> Entry | None:
    """The entry in `folder`; None if there is none, or if it is damaged, which is reported."""
    if not folder.exists():
        return None
    try:
        return _verified_entry(folder, key)
    except (OSError, ValueError) as error:  # msgspec.DecodeError is a ValueError
        report(f"the data cache {folder} is damaged ({error}); it is made again")
        return None


def _verified_entry(folder: Path, key: str) -> Entry:
    entry = msgspec.json.decode((folder / ENTRY_FILE).read_bytes(), type=Entry)
    if entry.key != key or set(entry.files) != set(build.FILES):
        raise ValueError(f"{ENTRY_FILE} is of another entry")
    for name, checksums in entry.files.items():
        blocks.verify(folder / name, checksums)
    return entry


def _write_entry(
    folder: Path, key: str, source: Source, geometry: Geometry, *, progress: bool
) -> Entry:
    for path in leftovers(folder):  # of killed processes: the caller holds the lock
        shutil.rmtree(path, ignore_errors=True)
    with atomic_folder(folder) as temporary:
        built = build.build_arrays(temporary, source, geometry, progress=progress)
        entry = Entry(
            key=key,
            class_names=built.class_names,
            skipped=built.skipped,
            files={name: blocks.checksums_of(temporary / name) for name in build.FILES},
        )
        (temporary / ENTRY_FILE).write_bytes(msgspec.json.encode(entry))
    return entry
