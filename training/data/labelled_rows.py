"""Rows that state an image's class, and perhaps its split and group: lists, tables and shards.

They become the very splits that the same images have in class folders: classes in order of their
names, images in order of their paths, and one draw of the test split. A class's name is text, also
where it is a number, so that "10" comes before "2" as it does among folders.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from runtime.base.errors import UserError
from runtime.base.shown_text import some
from training.data.class_lists import counted_images, labelled, numbered, split_classes
from training.data.class_names import check_distinct, counted_classes, unified
from training.data.layouts import TEST_SHARE
from training.data.loading_progress import report
from training.data.packed_image import PackedImage
from training.data.source import UNLABELLED, Contents, GroupOf, Picture, Split, splits_of
from training.data.split_words import Role
from training.data.table_cells import check_single, names_of_labels

# pandas writes some of them where a column was made text: `astype(str)`.
_MISSING_VALUES = {"nan", "NaN", "<NA>", "NaT", "None", "null"}
_WORDS = {
    Role.TRAIN: "trained on",
    Role.VALIDATION: "calibrated with",
    Role.TEST: "tested on",
}


@dataclass(frozen=True)
class Row:
    """One labelled image.

    Attributes:
        picture: the image.
        path: where it lies, relative to the data, with "/".
        label: the name of its class; "": it has none.
        split: what it is for; None: the data have no splits.
        group: images of one group never lie on both sides of a split; "": it is in none.
        stored: the path that decides the order, where `path` is not it; "": that of the file does.
    """

    picture: Picture
    path: str
    label: str
    split: Role | None = None
    group: str = ""
    stored: str | None = None


def contents_of_rows(
    rows: Sequence[Row],
    *,
    where: Path,
    split_seed: int,
    progress: bool,
    left_out: Counter[str],
    allow_leaks: bool = False,
) -> Contents:
    """The splits of the rows, as class folders would give them.

    Args:
        rows: in the order of the file, which decides among images of one path.
        where: the data, for messages.
        split_seed: draws the test split of data that have none.
        progress: whether to say what was taken for what.
        left_out: counts the rows without a class.
        allow_leaks: whether groups may lie on both sides of the given splits. It is said then.

    Raises:
        UserError: if there is no class, if a class cannot be split or has no training images, or if
            a group lies on both sides and may not.
    """
    usable = [row for row in rows if row.label and row.split is not Role.UNLABELLED]
    name_of = names_of_labels({row.label for row in usable})
    usable = [replace(row, label=name_of[row.label]) for row in usable]
    if unlabelled := len(rows) - len(usable):
        left_out[UNLABELLED] += unlabelled
        report(f"{where}: {counted_images(unlabelled)} without a class left out")
    if not usable:
        raise UserError(f"{where} has no image with a class; expected at least two classes")
    check_single([row.label for row in usable], where=str(where))
    usable.sort(key=_order)
    row_of = {row.picture: row for row in usable}
    parts = _by_split(usable, where, say=progress)
    classes = _by_class(parts, where)
    group_of = _group_of(row_of)
    if len(parts) == 1:
        (images,) = classes
        num_test = [max(1, round(TEST_SHARE * len(of_class))) for of_class in images.values()]
        contents = split_classes(images, num_test, split_seed=split_seed, group_of=group_of)
    else:
        contents = _given(parts, classes, where)
        if group_of is not None:
            contents = _grouped(contents, group_of, where, allow_leaks=allow_leaks)
    missing = (*_missing_values(usable, "class"), *_missing_values(usable, "group"))
    return _with_paths(replace(contents, warnings=(*contents.warnings, *missing)), row_of)


def _missing_values(rows: Sequence[Row], what: str) -> Iterator[str]:
    """Warns of classes or groups that are called as programs write a missing value."""
    counts = Counter(row.label if what == "class" else row.group for row in rows)
    for name in sorted(_MISSING_VALUES & counts.keys()):
        yield (
            f"{counted_images(counts[name])} in the {what} {name!r}, as programs write a missing "
            f"value; if they have no {what}, leave the cells empty"
        )


def with_own_paths(rows: Sequence[Row], root: Path) -> list[Row]:
    """The rows with a path for each picture, which lies in a file below `root`.

    It is the stored one where that is the only one. Several shards may number their samples alike,
    and parquet files need not store a path: then it begins with the file's name, or ends with the
    place in the file.
    """
    paths = [row.stored or "" for row in rows]
    for form in (_below, _numbered_below):
        counts = Counter(paths)
        paths = [
            path if path and counts[path] == 1 else form(row.picture, root)
            for path, row in zip(paths, rows, strict=True)
        ]
    return [replace(row, path=path) for path, row in zip(paths, rows, strict=True)]


def _below(picture: Picture, root: Path) -> str:
    path = picture.path if isinstance(picture, PackedImage) else picture
    return path.relative_to(root).as_posix()


def _numbered_below(picture: Picture, root: Path) -> str:
    assert isinstance(picture, PackedImage)
    return f"{_below(picture, root)}#{picture.place[1]}"


def _order(row: Row) -> tuple[str, ...]:
    return PurePosixPath(row.path if row.stored is None else row.stored).parts


def groups_on_both_sides(contents: Contents) -> set[int]:
    """The numbers of the groups that have images in several of the splits."""
    sides = [set() if split.groups is None else {*split.groups} for split in splits_of(contents)]
    counts = Counter(int(group) for side in sides for group in side)
    return {group for group, number in counts.items() if number > 1}


def _by_split(rows: Sequence[Row], where: Path, *, say: bool) -> dict[Role, list[Row]]:
    """The rows to train on, to test on and, if there are such, to calibrate with.

    Only those to train on, where a test split must be drawn.
    """
    parts: dict[Role, list[Row]] = {}
    for row in rows:
        parts.setdefault(row.split or Role.TRAIN, []).append(row)
    if Role.TRAIN not in parts:
        names = " and ".join(sorted(role.value for role in parts))
        raise UserError(f"{where} has images for {names}, and none to train on; expected some")
    if Role.TEST not in parts and Role.VALIDATION in parts:
        parts[Role.TEST] = parts.pop(Role.VALIDATION)
    if say:
        counts = [f"{len(parts[role])} {words}" for role, words in _WORDS.items() if role in parts]
        if len(parts) == 1:
            counts = [f"{TEST_SHARE:.0%} of each class are drawn for testing"]
        report(f"{where}: {counted_images(len(rows))}: {', '.join(counts)}")
    return parts


def _by_class(parts: Mapping[Role, Sequence[Row]], where: Path) -> list[dict[str, list[Picture]]]:
    """For each split the images of each class, in order of the classes' names.

    Raises:
        UserError: if two classes differ only in Unicode form, case or surrounding space.
    """
    found: list[dict[str, list[Picture]]] = []
    for rows in parts.values():
        images: dict[str, list[Picture]] = {}
        for row in rows:
            images.setdefault(row.label, []).append(row.picture)
        found.append(images)
    words = unified([list(images) for images in found], where=where)
    named = [
        {name[label]: images for label, images in split.items()}
        for name, split in zip(words, found, strict=True)
    ]
    check_distinct((name for split in named for name in split), where=where)
    if len(parts) == 1:
        for name, pictures in named[0].items():
            if len(pictures) == 1:
                raise UserError(
                    f"{where}: class {name!r} has one image; expected at least two, one to train "
                    "and one to test"
                )
    return [{name: split[name] for name in sorted(split)} for split in named]


def _given(
    parts: Mapping[Role, Sequence[Row]], classes: Sequence[dict[str, list[Picture]]], where: Path
) -> Contents:
    """The splits as the rows state them."""
    by_role = dict(zip(parts, classes, strict=True))
    names = list(by_role[Role.TRAIN])
    splits: dict[Role, Split] = {}
    for role, images in by_role.items():
        for name in sorted(images.keys() - by_role[Role.TRAIN].keys()):
            raise UserError(
                f"{where}: class {name!r} has images for {role.value} and none for training; "
                "expected both"
            )
        splits[role] = labelled([images.get(name, []) for name in names])
    without = [name for name in names if name not in by_role.get(Role.VALIDATION, names)]
    if without:
        report(f"{where}: {counted_classes(without)} without images to calibrate with")
    return Contents(
        tuple(names), splits[Role.TRAIN], splits[Role.TEST], splits.get(Role.VALIDATION)
    )


def _group_of(row_of: Mapping[Picture, Row]) -> GroupOf | None:
    if not any(row.group for row in row_of.values()):
        return None
    return lambda picture: row_of[picture].group or None


def _grouped(contents: Contents, group_of: GroupOf, where: Path, *, allow_leaks: bool) -> Contents:
    """`contents` with the numbers of the groups.

    Raises:
        UserError: if a group lies on both sides and may not.
    """
    numbers: dict[Hashable, int] = {}
    grouped = with_changed_splits(
        contents,
        lambda split: replace(split, groups=numbered(_pictures(split), group_of, numbers)),
    )
    if both := groups_on_both_sides(grouped):
        names = [str(name) for name, number in numbers.items() if number in both]
        found = f"{len(names)} groups have images in several splits ({some(names)})"
        if not allow_leaks:
            raise UserError(
                f"{where}: {found}; move each group into one split, or --allow-leaks trains all "
                "the same"
            )
        report(f"{where}: {found}")
        return replace(grouped, warnings=(*grouped.warnings, found))
    return grouped


def _with_paths(contents: Contents, row_of: Mapping[Picture, Row]) -> Contents:
    """`contents` with the paths that the rows state."""
    return with_changed_splits(
        contents,
        lambda split: replace(
            split, paths=tuple(row_of[picture].path for picture in _pictures(split))
        ),
    )


def with_changed_splits(
    contents: Contents,
    change: Callable[[Split], Split],
    changed: Callable[[Picture], Picture] = lambda picture: picture,
) -> Contents:
    """`contents` after a change of each of its splits, also of those that are drawn again.

    Args:
        contents: any.
        change: gives the changed split.
        changed: gives for a picture the one that is in its place after the change.
    """
    validation, redraw = contents.validation, contents.redraw

    def drawn_again(group_of: GroupOf) -> Contents:
        assert redraw is not None
        return with_changed_splits(
            redraw(lambda picture: group_of(changed(picture))), change, changed
        )

    return replace(
        contents,
        train=change(contents.train),
        test=change(contents.test),
        validation=None if validation is None else change(validation),
        redraw=None if redraw is None else drawn_again,
    )


def _pictures(split: Split) -> Sequence[Picture]:
    assert not isinstance(split.images, np.ndarray)
    return split.images
