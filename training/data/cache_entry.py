"""A new entry of the cache: decodes both splits to files, and leaves broken images out."""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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
from training.data.source import Contents, Source, Split, check_labels, row_paths
from training.data.split_twins import groups_with_twins, twins_across_splits
from training.quality.exact_twins import PICTURE, Pictures

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
_MAX_BROKEN_SHARE = 0.01
_MAX_NAMED = 5
_COPY_ROWS = 256


@dataclass(frozen=True)
class Built:
    """What was decoded into FILES. `skipped` are messages that name the broken images.

    The last `validation_images` of the training files are the validation split. `warnings` are what
    the decoder warned of, and of how many images.
    """

    class_names: tuple[str, ...]
    skipped: tuple[str, ...]
    validation_images: int
    warnings: dict[str, int]


@dataclass(frozen=True)
class _Decoding:
    """The splits, which are decoded to files one after the other, and what is known of their rows.

    Attributes:
        splits: the images of "train" and "test", and which of their pixels are stored.
        trained: how many of the training images are not of the validation split.
        broken: those of each split, in the order of the rows.
        sha256: digests of the images of each split, uint8 (N, 32).
        pictures: the decoded pictures of each split, (N,).
        file_sha256: the digests of the source's files.
        warnings: what the decoder warned of, and of how many images.
    """

    splits: dict[str, tuple[Split, InputSpec]]
    trained: int
    broken: dict[str, list[Broken]]
    sha256: dict[str, NDArray[np.uint8]]
    pictures: dict[str, Pictures]
    file_sha256: dict[Path, bytes]
    warnings: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return sum(len(split.labels) for split, _ in self.splits.values())


def build_arrays(folder: Path, source: Source, geometry: Geometry, *, progress: bool) -> Built:
    """Decodes the source into FILES in `folder`.

    A test split that was drawn is drawn again if pictures of it are in the training split, too.

    Raises:
        UserError: if more than 1 % of the images are broken (but one may always be), if a class is
            left without training images, or if the disk has no room.
    """
    contents = source.read()
    decoding = _decode_contents(folder, source, contents, geometry, progress=progress)
    if contents.redraw is not None and not source.published:
        group_of, copies = twins_across_splits(folder, decoding.pictures, decoding.splits)
        if copies:
            report(
                f"{source.name}: {copies} test images are also in train; the test images are drawn "
                "again, with copies of one picture on one side, and decoded again"
            )
            try:
                contents = contents.redraw(group_of)
            except UserError as error:
                raise UserError(f"copies of one picture are one group, and {error}") from error
            decoding = _decode_contents(folder, source, contents, geometry, progress=progress)
    np.save(folder / SOURCE_DIGESTS, _in_order(source.files, decoding.file_sha256))
    # The entry is JSON, which cannot hold a name that is not UTF-8.
    messages = [
        image.message.encode("utf-8", "backslashreplace").decode()
        for found in decoding.broken.values()
        for image in found
    ]
    _check_broken(source.name, messages, decoding.total)
    groups = decoding.splits["train"][0].groups
    if not source.published:
        groups = groups_with_twins(folder, decoding.pictures["train"], geometry.stored, groups)
    labels = [
        _keep_whole(folder, word, decoding, groups if word == "train" else None)
        for word in decoding.splits
    ]
    broken_ones = sum(image.row >= decoding.trained for image in decoding.broken["train"])
    validation = len(decoding.splits["train"][0].labels) - decoding.trained - broken_ones
    trained = len(labels[0]) - validation
    check_labels(source.name, contents.class_names, labels[0][:trained], labels[1])
    for message in messages:
        report(f"skipped {message}")
    return Built(contents.class_names, tuple(messages), validation, dict(decoding.warnings))


def _decode_contents(
    folder: Path, source: Source, contents: Contents, geometry: Geometry, *, progress: bool
) -> _Decoding:
    train, trained = contents.train, len(contents.train.labels)
    if contents.validation is not None:
        train = _joined(train, contents.validation)
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
    counts = {word: len(split.labels) for word, (split, _) in splits.items()}
    check_space(folder, sum(counts[word] * spec.size**2 * 3 for word, (_, spec) in splits.items()))
    decoding = _Decoding(
        splits=splits,
        trained=trained,
        broken={},
        sha256={word: np.zeros((count, 32), np.uint8) for word, count in counts.items()},
        pictures={word: np.zeros(count, PICTURE) for word, count in counts.items()},
        file_sha256=_digests_of_containers(source, splits),
    )
    steps = _decode(folder, decoding)
    for _ in track(steps, total=decoding.total, what=f"decoding {source.name}", show=progress):
        pass
    return decoding


def _joined(train: Split, validation: Split) -> Split:
    """Both splits in one, which are stored with one geometry."""
    images = [*train.images, *validation.images]
    labels = np.concatenate([train.labels, validation.labels])
    groups = None
    if train.groups is not None and validation.groups is not None:
        groups = np.concatenate([train.groups, validation.groups])
    return Split(images, labels, train.paths + validation.paths, groups)


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


def _decode(folder: Path, decoding: _Decoding) -> Iterator[int]:
    """Decodes the splits, notes what is found, and yields the number of images of each step."""
    for word, (split, spec) in decoding.splits.items():
        found: list[Broken] = []
        for decoded in decode_split(split, spec, folder / f"{word}_images.npy"):
            found += decoded.broken
            decoding.warnings.update(decoded.warnings)
            decoding.sha256[word][decoded.rows] = decoded.sha256
            decoding.pictures[word][decoded.rows] = decoded.pictures
            if not isinstance(split.images, np.ndarray):
                for row, digest in zip(decoded.rows, decoded.sha256, strict=True):
                    if isinstance(file := split.images[row], Path):
                        decoding.file_sha256[file] = digest.tobytes()
            yield decoded.images
        decoding.broken[word] = sorted(found, key=lambda image: image.row)


def _check_broken(name: str, messages: list[str], total: int) -> None:
    allowed = max(1, int(_MAX_BROKEN_SHARE * total))
    if len(messages) > allowed:
        named = "; ".join(messages[:_MAX_NAMED]) + ("; ..." if len(messages) > _MAX_NAMED else "")
        raise UserError(
            f"{name}: {len(messages)} of {total} images are broken, at most {allowed} are skipped; "
            f"mend or remove them: {named}"
        )


def check_space(folder: Path, needed: int) -> None:
    """Checks that `needed` bytes have room in `folder`, which lies in the cache.

    Raises:
        UserError: if they have not.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the data cache needs {needed / 1e9:.1f} GB and {folder.parent} has "
            f"{free / 1e9:.1f} GB free; free some, or set {CACHE_VARIABLE} to another disk"
        )


def _keep_whole(
    folder: Path, word: str, decoding: _Decoding, groups: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """Removes the rows of broken images from the split's file, and writes its other files.

    `groups` are those of the training images; None: there are none.

    Returns:
        The labels of the rows that are left.
    """
    split, _ = decoding.splits[word]
    broken_rows = [image.row for image in decoding.broken[word]]
    kept = np.delete(np.arange(len(split.labels)), broken_rows)
    if broken_rows:
        images = np.load(folder / f"{word}_images.npy", mmap_mode="r")
        copy_rows(images, folder / "whole.npy", kept)
        (folder / "whole.npy").replace(folder / f"{word}_images.npy")
    np.save(folder / f"{word}_labels.npy", split.labels[kept])
    np.save(folder / f"{word}_sha256.npy", decoding.sha256[word][kept])
    np.save(folder / f"{word}_pictures.npy", decoding.pictures[word][kept])
    if word == "train":
        np.save(folder / GROUPS_FILE, np.zeros(0, np.int64) if groups is None else groups[kept])
    paths = split.paths or row_paths(word, range(len(split.labels)))
    (folder / f"{word}_paths.bin").write_bytes(packed_paths([paths[row] for row in kept]))
    return split.labels[kept]


def copy_rows(images: NDArray[np.uint8], target: Path, rows: NDArray[np.int64]) -> None:
    """Writes the rows of an array, which may be a memory map, to a `.npy` file.

    They are written, not mapped: where the disk has no room for a mapped page, the system kills the
    process.
    """
    header = {
        "descr": np.lib.format.dtype_to_descr(images.dtype),
        "fortran_order": False,
        "shape": (len(rows), *images.shape[1:]),
    }
    with target.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(rows), _COPY_ROWS):
            file.write(images[rows[start : start + _COPY_ROWS]].tobytes())


def packed_paths(paths: Sequence[str]) -> bytes:
    """The paths in one file: the bytes of each, and a zero byte, which no path holds."""
    return b"".join(path.encode("utf-8", "surrogateescape") + b"\0" for path in paths)


def unpacked_paths(content: bytes) -> tuple[str, ...]:
    """The paths that `packed_paths` has packed."""
    return tuple(path.decode("utf-8", "surrogateescape") for path in content.split(b"\0")[:-1])
