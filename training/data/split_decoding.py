"""Both splits of a data set, decoded to files one after the other, and what is known of their rows.

Before it starts, one line says how many pictures there are, what they take, and how long.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.base.errors import UserError
from runtime.base.resources import usable_cores
from runtime.model.card import InputSpec
from training.config.cache_form import ARRAYS, jpeg_quality
from training.data.cache_room import check_space, free_in, size_words, time_words, used_by
from training.data.dataset import Geometry
from training.data.decode import Broken, Decoded, decode_split
from training.data.encoded_store import EncodedStore
from training.data.file_states import DIGEST_BYTES, digests_of
from training.data.loading_progress import report, track
from training.data.picture_store import ArrayStore, PictureStore
from training.data.resumable_decoding import Decoding, open_decoding
from training.data.source import Contents, Source, Split, check_labels
from training.quality.exact_twins import PICTURE, Pictures

_Splits = dict[str, tuple[Split, InputSpec]]


@dataclass(frozen=True)
class Asked:
    """How an entry is made: its key, its form, and whether to say how far the work is."""

    key: str
    form: str
    progress: bool


@dataclass(frozen=True)
class DecodedSplits:
    """The splits, and what was found in them.

    Attributes:
        splits: the images of "train" and "test", and which of their pixels are stored.
        stores: hold the decoded images of each split.
        trained: how many of the training images are not of the validation split.
        broken: those of each split, in the order of the rows.
        sha256: digests of the images of each split, uint8 (N, 32).
        pictures: the decoded pictures of each split, (N,).
        file_sha256: the digests of the source's files.
        warnings: what the decoder warned of, and of how many images.
    """

    splits: _Splits
    stores: dict[str, PictureStore]
    trained: int
    broken: dict[str, list[Broken]]
    sha256: dict[str, NDArray[np.uint8]]
    pictures: dict[str, Pictures]
    file_sha256: dict[Path, bytes]
    warnings: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return sum(len(split.labels) for split, _ in self.splits.values())

    def note(self, word: str, decoded: Decoded) -> None:
        """Takes over what a chunk of the split `word` gave."""
        self.broken[word] += decoded.broken
        self.warnings.update(decoded.warnings)
        self.sha256[word][decoded.rows] = decoded.sha256
        self.pictures[word][decoded.rows] = decoded.pictures
        images = self.splits[word][0].images
        if not isinstance(images, np.ndarray):
            for row, digest in zip(decoded.rows, decoded.sha256, strict=True):
                if isinstance(file := images[row], Path):
                    self.file_sha256[file] = digest.tobytes()


def splits_to_decode(contents: Contents, geometry: Geometry) -> _Splits:
    """The images of "train", with the validation split behind them, and those of "test"."""
    train = contents.train
    if contents.validation is not None:
        train = _joined(train, contents.validation)
    return {"train": (train, geometry.stored), "test": (contents.test, geometry.input)}


def decode_contents(
    folder: Path, source: Source, contents: Contents, geometry: Geometry, asked: Asked
) -> DecodedSplits:
    """Decodes the splits to files in `folder`, and goes on with what a killed process left there.

    Raises:
        UserError: if images and labels do not fit together, if the validation split has no image
            that can be read, if the disk has no room, or if the system ended one of the processes.
    """
    splits = splits_to_decode(contents, geometry)
    train = splits["train"][0]
    for word, split in (("training", train), ("test", contents.test)):
        if len(split.images) != len(split.labels):
            raise UserError(
                f"{source.name} has {len(split.images)} {word} images and {len(split.labels)} "
                "labels of them; get its files again"
            )
    _check_validation(source.name, contents)
    check_labels(source.name, contents.class_names, contents.train.labels, contents.test.labels)
    counts = {word: len(split.labels) for word, (split, _) in splits.items()}
    stores = {
        word: _store(folder, word, counts[word], spec, asked.form)
        for word, (_, spec) in splits.items()
    }
    decoded = DecodedSplits(
        splits=splits,
        stores=stores,
        trained=len(contents.train.labels),
        broken={word: [] for word in splits},
        sha256={word: np.zeros((count, DIGEST_BYTES), np.uint8) for word, count in counts.items()},
        pictures={word: np.zeros(count, PICTURE) for word, count in counts.items()},
        file_sha256={},
    )
    with ExitStack() as stack:
        if isinstance(train.images, np.ndarray):
            needed = sum(counts[word] * spec.size**2 * 3 for word, (_, spec) in splits.items())
            check_space(folder, needed)
            steps, total = _array_steps(folder, decoded), decoded.total
        else:
            opened = _opened(folder, decoded, asked.key)
            for decoding in opened.values():
                stack.callback(decoding.journal.close)
            total = sum(len(decoding.remaining) for decoding in opened.values())
            _say_start(folder, source.name, opened, progress=asked.progress)
            steps = _picture_steps(decoded, opened)
        for _ in track(steps, total=total, what=f"decoding {source.name}", show=asked.progress):
            pass
    for found in decoded.broken.values():
        found.sort(key=lambda image: image.row)
    _check_validation(source.name, contents, decoded)
    decoded.file_sha256.update(_digests_of_containers(source, decoded.file_sha256))
    return decoded


def _check_validation(name: str, contents: Contents, decoded: DecodedSplits | None = None) -> None:
    """Refuses a validation split without images: a run would take some of train in its place."""
    if contents.validation is None:
        return
    count = len(contents.validation.labels)
    why = "has no images"
    if decoded is not None:
        broken = [each for each in decoded.broken["train"] if each.row >= decoded.trained]
        count -= len(broken)
        if broken:
            why = f"has no image that can be read: {broken[0].message}"
    if count == 0:
        raise UserError(
            f"{name}: the validation split {why}; add images to it, or remove it, and a share of "
            "train is held out instead"
        )


def _array_steps(folder: Path, decoded: DecodedSplits) -> Iterator[int]:
    """Prepares the images of arrays, and yields how many each step did."""
    for word, (split, spec) in decoded.splits.items():
        for chunk in decode_split(split, spec, folder / f"{word}_images.npy"):
            decoded.note(word, chunk)
            yield chunk.images


def _picture_steps(decoded: DecodedSplits, opened: dict[str, Decoding]) -> Iterator[int]:
    """Decodes what remains, and yields how many images each step did."""
    for word, decoding in opened.items():
        for stored in decoding.journal.done:
            decoded.note(word, stored.decoded)
        for stored in decoding.steps():
            decoded.note(word, stored.decoded)
            yield stored.decoded.images


def _store(folder: Path, word: str, count: int, spec: InputSpec, form: str) -> PictureStore:
    """Where the images of a split go. Only pictures that are trained on are made to other JPEGs."""
    if form == ARRAYS:
        return ArrayStore(folder / f"{word}_images.npy", count, spec)
    quality = jpeg_quality(form) if word == "train" else None
    return EncodedStore(folder / f"{word}_images.bin", count, spec, quality)


def _opened(folder: Path, decoded: DecodedSplits, key: str) -> dict[str, Decoding]:
    return {
        word: open_decoding(split, spec, decoded.stores[word], folder / f"{word}.journal", key=key)
        for word, (split, spec) in decoded.splits.items()
    }


def _say_start(folder: Path, name: str, opened: dict[str, Decoding], *, progress: bool) -> None:
    """Says what the decoding takes, which some of the pictures tell.

    Raises:
        UserError: if the disk has no room.
    """
    _check_room(folder, opened)
    remaining = sum(len(decoding.remaining) for decoding in opened.values())
    total = sum(len(decoding.pictures) for decoding in opened.values())
    if not remaining:
        return
    seconds = next(d.timed() for d in opened.values() if len(d.remaining))
    size = _check_room(folder, opened)
    if not progress:
        return
    takes = f"{size_words(size)} in {folder.parent}, which has {size_words(free_in(folder))} free"
    pictures = f"{total:,} pictures"
    if remaining < total:
        pictures = f"{total - remaining:,} of {total:,} pictures are decoded already"
    about = time_words(seconds * remaining / usable_cores())
    report(f"{name}: {pictures}; {takes}; decoding takes about {about}")


def _check_room(folder: Path, opened: dict[str, Decoding]) -> int:
    """The bytes that all pictures take, for which there is room."""
    size = sum(decoding.bytes_of_all() for decoding in opened.values())
    begun = any(decoding.journal.done for decoding in opened.values())
    check_space(folder, size - used_by(folder.glob("*_images.*")) if begun else size)
    return size


def _joined(train: Split, validation: Split) -> Split:
    """Both splits in one, which are stored with one geometry."""
    images = [*train.images, *validation.images]
    labels = np.concatenate([train.labels, validation.labels])
    groups = None
    if train.groups is not None and validation.groups is not None:
        groups = np.concatenate([train.groups, validation.groups])
    return Split(images, labels, train.paths + validation.paths, groups)


def _digests_of_containers(source: Source, images: dict[Path, bytes]) -> dict[Path, bytes]:
    """The digests of the source's files that are no images, such as lists and archives."""
    others = [file for file in source.files if file not in images]
    return dict(zip(others, digests_of(others), strict=True))
