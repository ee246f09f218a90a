"""What a data set is before it is decoded: files or arrays, their labels, and a fingerprint."""

import hashlib
import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.base.errors import UserError
from training.data.packed_image import PackedImage

MIN_CLASSES = 2

Picture = Path | PackedImage
GroupOf = Callable[[Picture], Hashable | None]  # the group of a picture; None: it is in none

# Why files, folders and images that lie in the data are not used: the words of every count. What
# any folder of images leaves out has its words in `runtime.images.image_folders`.
BESIDE_CLASSES = "beside the class folders"
UNLABELLED = "unlabelled"
NO_SPLIT = "no split"
MISSING = "missing"  # named by a list, and not there
NOT_LISTED = "not in the list"
BROKEN = "broken"
DUPLICATE = "duplicate"


@dataclass(frozen=True)
class Split:
    """Images and their labels.

    Attributes:
        images: files, pictures inside of other files, or one uint8 array (N, H, W, 3).
        labels: int64 (N,).
        paths: where each image lies, relative to the data, as text with "/"; bytes that are not
            UTF-8 are surrogates, as `os.fsdecode` gives them. () of arrays whose images are known
            by their row alone.
        groups: int64 (N,), None if there are none. Images of one number, in whatever split, are
            one group, which must not lie on both sides of a split.
    """

    images: Sequence[Picture] | NDArray[np.uint8]
    labels: NDArray[np.int64]
    paths: tuple[str, ...] = ()
    groups: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Contents:
    """The splits of a data set, not decoded yet.

    Without `validation`, a run holds some of the training images out instead.

    Attributes:
        redraw: draws the test split again, so that pictures of one group are on one side; it gets
            a function that gives the group of each picture. None: the split was not drawn here.
        warnings: as those of a source.
    """

    class_names: tuple[str, ...]
    train: Split
    test: Split
    validation: Split | None = None
    redraw: "Callable[[GroupOf], Contents] | None" = field(default=None, kw_only=True)
    warnings: tuple[str, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes:
        name: fit for a file name.
        fingerprint: changes when a file, a label or the split changes. It is found without reading
            an image.
        read: gives the contents. It is called only when nothing with this fingerprint is cached.
        left_out: how many files or images were left out, for each reason.
        files: all files that the contents are made of. The cache finds those that were replaced by
            others of the same name, size and time of modification.
        published: whether results name it. Its splits stay as they are, whatever is in them.
        warnings: sentences about what was found while the data were read, without their pictures,
            and may spoil a training.
    """

    name: str
    fingerprint: str
    read: Callable[[], Contents]
    left_out: Mapping[str, int] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    published: bool = False
    warnings: tuple[str, ...] = ()


def fingerprint_of(root: Path, files: Iterable[Path], *extra: str | bytes) -> str:
    """Hex SHA-256 of the files' names below `root`, sizes and times of change, and of `extra`."""
    digest = hashlib.sha256()
    for file in files:
        try:
            state = file.stat()
            size, changed = state.st_size, state.st_mtime_ns
        except OSError:  # absent, or a link that leads nowhere; decoding will name the file
            size, changed = -1, -1
        # A name may be bytes that are not UTF-8; os.fsencode gives them back.
        inside = file.is_relative_to(root)  # a list may name files elsewhere
        digest.update(os.fsencode((file.relative_to(root) if inside else file).as_posix()))
        digest.update(f"\0{size}\0{changed}\n".encode())
    for part in extra:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()


def source_of_files(
    name: str, root: Path, contents: Contents, *, left_out: Mapping[str, int] | None = None
) -> Source:
    """The source of a data set whose splits are lists of image files below `root`."""
    contents = _with_paths(contents, root)
    splits = splits_of(contents)
    files = [_file(image) for split in splits for image in split.images]
    labels = [split.labels.tobytes() for split in splits]
    fingerprint = fingerprint_of(
        root, files, str(len(contents.train.labels)), *labels, "\n".join(contents.class_names)
    )
    return Source(
        name,
        fingerprint,
        lambda: contents,
        left_out or {},
        tuple(files),
        warnings=contents.warnings,
    )


def source_of_pictures(
    name: str,
    root: Path,
    contents: Contents,
    containers: Sequence[Path],
    *,
    left_out: Mapping[str, int],
) -> Source:
    """The source of a data set whose splits state the paths of their pictures.

    Args:
        name: fit for a file name.
        root: what the paths are relative to.
        contents: with pictures that are files, or lie inside of the containers.
        containers: the lists, tables and archives that were read.
        left_out: how many images were left out, for each reason.
    """
    splits = splits_of(contents)
    files = [image for split in splits for image in split.images if isinstance(image, Path)]
    facts: list[str | bytes] = [str(len(contents.train.labels)), "\n".join(contents.class_names)]
    for split in splits:
        facts += [split.labels.tobytes(), b"" if split.groups is None else split.groups.tobytes()]
        facts += [os.fsencode("\0".join(split.paths))]
    files += _outside(image for split in splits for image in split.images)
    everything = (*containers, *files)
    fingerprint = fingerprint_of(root, everything, *facts)
    return Source(
        name, fingerprint, lambda: contents, left_out, everything, warnings=contents.warnings
    )


def _outside(images: Iterable[Picture | NDArray[np.uint8]]) -> list[Path]:
    """The files that pictures of a table may be in, instead of the table."""
    packed = (image.outside for image in images if isinstance(image, PackedImage))
    return [file for file in packed if file is not None]


def splits_of(contents: Contents) -> list[Split]:
    """The training, the test and, if there is one, the validation split."""
    # Data without a validation split has the fingerprint that it had before there were any.
    validation = [contents.validation] if contents.validation else []
    return [contents.train, contents.test, *validation]


def _file(image: Picture | NDArray[np.uint8]) -> Path:
    assert isinstance(image, Path)
    return image


def _with_paths(contents: Contents, root: Path) -> Contents:
    """`contents` with the path of each file relative to `root`."""

    def named(split: Split) -> Split:
        files = [_file(image) for image in split.images]
        return replace(split, paths=tuple(file.relative_to(root).as_posix() for file in files))

    validation, redraw = contents.validation, contents.redraw
    return replace(
        contents,
        train=named(contents.train),
        test=named(contents.test),
        validation=None if validation is None else named(validation),
        redraw=redraw and (lambda group_of: _with_paths(redraw(group_of), root)),
    )


def split_of(
    images: Sequence[Picture] | NDArray[np.uint8], labels: ArrayLike, paths: Sequence[str] = ()
) -> Split:
    """A Split; its labels become int64 (N,)."""
    return Split(images, np.asarray(labels, dtype=np.int64), tuple(paths))


def row_paths(where: str, rows: Iterable[int]) -> tuple[str, ...]:
    """What stands for the paths of images in an array: "test#17" is row 17 of the test images."""
    return tuple(f"{where}#{row}" for row in rows)


def check_labels(
    name: str,
    class_names: Sequence[str],
    train_labels: NDArray[np.int64],
    test_labels: NDArray[np.int64],
) -> None:
    """Checks the class names and the int64 labels of both splits.

    Raises:
        UserError: if there are fewer than two classes or two of one name, if a label is out of
            range, if a split is empty, or if a class has no training image.
    """
    num_classes = len(class_names)
    if num_classes < MIN_CLASSES or len(set(class_names)) != num_classes:
        raise UserError(
            f"{name} has the class names {', '.join(class_names)}; "
            "expected at least two, all different"
        )
    for word, labels in (("training", train_labels), ("test", test_labels)):
        if len(labels) == 0:
            raise UserError(f"{name} has no {word} images; expected at least one")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= num_classes:
            raise UserError(
                f"{name}: {word} labels are {low}..{high}, "
                f"expected 0..{num_classes - 1} for {num_classes} classes"
            )
    counts = np.bincount(train_labels, minlength=num_classes)
    if not counts.all():
        missing = class_names[int(np.argmin(counts))]
        raise UserError(f"{name}: class {missing!r} has no training images; add some or remove it")


def unique_names(names: Sequence[str], suffixes: Sequence[str]) -> tuple[str, ...]:
    """The names. One that occurs more than once gets its suffix in brackets."""
    return tuple(
        f"{name} ({suffix})" if names.count(name) > 1 else name
        for name, suffix in zip(names, suffixes, strict=True)
    )
