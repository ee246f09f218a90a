"""A new entry of the cache: decodes both splits to files, and leaves broken images out."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import UserError
from runtime.base.files import CACHE_VARIABLE
from runtime.model.card import InputSpec
from training.data.dataset import Geometry
from training.data.decode import Broken, decode_split
from training.data.file_states import DIGEST_BYTES, digests_of
from training.data.loading_progress import report, track
from training.data.source import Source, Split, check_labels, row_paths

GROUPS_FILE = "train_groups.npy"  # empty where there are no groups
SOURCE_DIGESTS = "source_sha256.npy"
FILES = (
    *(
        f"{split}_{what}"
        for split in ("train", "test")
        for what in ("images.npy", "labels.npy", "sha256.npy", "paths.bin")
    ),
    GROUPS_FILE,
    SOURCE_DIGESTS,
)
_MAX_BROKEN_SHARE = 0.01
_MAX_NAMED = 5
_COPY_ROWS = 256


@dataclass(frozen=True)
class Built:
    """What was decoded into FILES. `skipped` are messages that name the broken images.

    The last `validation_images` of the training files are the validation split.
    """

    class_names: tuple[str, ...]
    skipped: tuple[str, ...]
    validation_images: int


def build_arrays(folder: Path, source: Source, geometry: Geometry, *, progress: bool) -> Built:
    """Decodes the source into FILES in `folder`.

    Raises:
        UserError: if more than 1 % of the images are broken (but one may always be), if a class is
            left without training images, or if the disk has no room.
    """
    contents = source.read()
    trained, validation_images = len(contents.train.labels), 0
    train = contents.train
    if contents.validation is not None:
        train, validation_images = _joined(train, contents.validation)
    for word, split in (("training", train), ("test", contents.test)):
        if len(split.images) != len(split.labels):
            raise UserError(
                f"{source.name} has {len(split.images)} {word} images and {len(split.labels)} "
                "labels of them; get its files again"
            )
    check_labels(source.name, contents.class_names, contents.train.labels, contents.test.labels)
    splits = {
        "train": (train, geometry.stored),
        "test": (contents.test, geometry.input),
    }
    total = sum(len(split.labels) for split, _ in splits.values())
    _check_space(
        folder, sum(len(split.labels) * spec.size**2 * 3 for split, spec in splits.values())
    )
    broken: dict[str, list[Broken]] = {}
    digests = {
        word: np.zeros((len(split.labels), 32), np.uint8) for word, (split, _) in splits.items()
    }
    file_digests = _digests_of_containers(source, splits)
    steps = _decode(folder, splits, broken, digests, file_digests)
    for _ in track(steps, total=total, what=f"decoding {source.name}", show=progress):
        pass
    np.save(folder / SOURCE_DIGESTS, _in_order(source.files, file_digests))
    # The entry is JSON, which cannot hold a name that is not UTF-8.
    messages = [
        image.message.encode("utf-8", "backslashreplace").decode()
        for found in broken.values()
        for image in found
    ]
    _check_broken(source.name, messages, total)
    labels = [
        _keep_whole(folder, word, split, digests[word], [image.row for image in broken[word]])
        for word, (split, _) in splits.items()
    ]
    validation_images -= sum(image.row >= trained for image in broken["train"])
    trained = len(labels[0]) - validation_images
    check_labels(source.name, contents.class_names, labels[0][:trained], labels[1])
    for message in messages:
        report(f"skipped {message}")
    return Built(contents.class_names, tuple(messages), validation_images)


def _joined(train: Split, validation: Split) -> tuple[Split, int]:
    """Both splits in one, which are stored with one geometry, and how long the second one is."""
    images = [*train.images, *validation.images]
    labels = np.concatenate([train.labels, validation.labels])
    groups = None
    if train.groups is not None and validation.groups is not None:
        groups = np.concatenate([train.groups, validation.groups])
    return Split(images, labels, train.paths + validation.paths, groups), len(validation.labels)


def _digests_of_containers(
    source: Source, splits: dict[str, tuple[Split, InputSpec]]
) -> dict[Path, bytes]:
    """The digests of the source's files that are no images, such as lists and archives."""
    images: set[object] = set()
    for split, _ in splits.values():
        if not isinstance(split.images, np.ndarray):
            images.update(split.images)
    others = [file for file in source.files if file not in images]
    return dict(zip(others, digests_of(others), strict=True))


def _in_order(files: Sequence[Path], digests: dict[Path, bytes]) -> NDArray[np.uint8]:
    """The digests of the files, uint8 (F, 32)."""
    joined = b"".join(digests[file] for file in files)
    return np.frombuffer(joined, np.uint8).reshape(-1, DIGEST_BYTES)


def _decode(
    folder: Path,
    splits: dict[str, tuple[Split, InputSpec]],
    broken: dict[str, list[Broken]],
    digests: dict[str, NDArray[np.uint8]],
    file_digests: dict[Path, bytes],
) -> Iterator[int]:
    """Decodes the splits and yields the number of images of each step.

    Fills `broken` for each split, in the order of the rows, the rows of `digests`, and
    `file_digests` for each image that is a file.
    """
    for word, (split, spec) in splits.items():
        found: list[Broken] = []
        for decoded in decode_split(split, spec, folder / f"{word}_images.npy"):
            found += decoded.broken
            digests[word][decoded.rows] = decoded.sha256
            for row, digest in decoded.file_sha256.items():
                if isinstance(file := split.images[row], Path):
                    file_digests[file] = digest
            yield decoded.images
        broken[word] = sorted(found, key=lambda image: image.row)


def _check_broken(name: str, messages: list[str], total: int) -> None:
    allowed = max(1, int(_MAX_BROKEN_SHARE * total))
    if len(messages) > allowed:
        named = "; ".join(messages[:_MAX_NAMED]) + ("; ..." if len(messages) > _MAX_NAMED else "")
        raise UserError(
            f"{name}: {len(messages)} of {total} images are broken, at most {allowed} are skipped; "
            f"mend or remove them: {named}"
        )


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the data cache needs {needed / 1e9:.1f} GB and {folder.parent} has "
            f"{free / 1e9:.1f} GB free; free some, or set {CACHE_VARIABLE} to another disk"
        )


def _keep_whole(
    folder: Path, word: str, split: Split, digests: NDArray[np.uint8], broken_rows: list[int]
) -> NDArray[np.int64]:
    """Removes the rows of broken images from the split's file, and writes its other files.

    Returns:
        The labels of the rows that are left.
    """
    labels = split.labels
    kept = np.delete(np.arange(len(labels)), broken_rows)
    if broken_rows:
        file = folder / f"{word}_images.npy"
        images = np.load(file, mmap_mode="r")
        header = np.lib.format.header_data_from_array_1_0(images)
        header["shape"] = (len(kept), *images.shape[1:])
        # Written, not mapped: where the disk has no room for a mapped page, the system kills the
        # process.
        with (folder / "whole.npy").open("wb") as whole:
            np.lib.format.write_array_header_1_0(whole, header)
            for start in range(0, len(kept), _COPY_ROWS):
                whole.write(images[kept[start : start + _COPY_ROWS]].tobytes())
        (folder / "whole.npy").replace(file)
    np.save(folder / f"{word}_labels.npy", labels[kept])
    np.save(folder / f"{word}_sha256.npy", digests[kept])
    if word == "train":
        groups = np.zeros(0, dtype=np.int64) if split.groups is None else split.groups[kept]
        np.save(folder / GROUPS_FILE, groups)
    paths = split.paths or row_paths(word, range(len(labels)))
    (folder / f"{word}_paths.bin").write_bytes(packed_paths([paths[row] for row in kept]))
    return labels[kept]


def packed_paths(paths: Sequence[str]) -> bytes:
    """The paths in one file: the bytes of each, and a zero byte, which no path holds."""
    return b"".join(path.encode("utf-8", "surrogateescape") + b"\0" for path in paths)


def unpacked_paths(content: bytes) -> tuple[str, ...]:
    """The paths that `packed_paths` has packed."""
    return tuple(path.decode("utf-8", "surrogateescape") for path in content.split(b"\0")[:-1])
