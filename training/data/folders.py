"""A folder of class folders, in one of the layouts that `layouts` knows: its classes and images.

A class is named after its folder; its images may lie in folders below it. Hidden files, and files
and folders that systems keep for themselves, are left out. Files whose names do not end like an
image's are left out, too, and a line tells their number.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from runtime.base.errors import UserError
from runtime.base.shown_text import some
from runtime.images.image_folders import NOT_AN_IMAGE
from runtime.images.image_formats import READABLE
from training.config.options import CLASSES
from training.data.class_lists import counted_images, labelled, split_classes
from training.data.class_names import check_distinct, check_utf8, composed, counted_classes, unified
from training.data.layouts import EXPECTED, TEST_SHARE, Layout, find_layout
from training.data.listing import FolderReader
from training.data.loading_progress import report
from training.data.source import BESIDE_CLASSES, Contents, Source, source_of_files
from training.data.sub_folders import sub_folder_warnings

FOLDERS, LEAVES = CLASSES

Classes = dict[str, list[Path]]


def folder_source(
    root: Path, *, split_seed: int, classes: str = FOLDERS, progress: bool = True
) -> Source:
    """The images in `root`. Without a test folder, the seed draws 20 % of each class as test split.

    Args:
        root: the folder. The data set is named after it.
        split_seed: draws the test split.
        classes: "folders": each folder in a split is a class, with all images below it. "leaves":
            each folder that images lie directly in is a class.
        progress: whether to say what was taken for what. What is left out is always said.

    Raises:
        UserError: if the folder is not laid out as expected, or a class has no images.
    """
    reader = FolderReader(root)
    contents = folder_contents(
        root, reader, split_seed=split_seed, classes=classes, progress=progress
    )
    return source_of_files(name_of(root), root, contents, left_out=dict(+reader.left_out))


def folder_contents(
    root: Path, reader: FolderReader, *, split_seed: int, classes: str, progress: bool
) -> Contents:
    """The splits of the files in `root`, as `folder_source` reads them, by their paths.

    Raises:
        UserError: as `folder_source`.
    """
    layout = find_layout(root, reader, report if progress else lambda line: None)
    for folder in _passed(root, layout):
        _leave_beside(folder, reader)
    if layout.test is None:
        contents = _one_folder(layout.train, reader, split_seed=split_seed, classes=classes)
    else:
        contents = _split_folders(layout, reader, classes=classes)
    reader.report()
    if classes == LEAVES:
        return contents
    found = (*_called_like_others(layout, contents), *sub_folder_warnings(layout, contents))
    return replace(contents, warnings=(*contents.warnings, *found))


def _passed(root: Path, layout: Layout) -> list[Path]:
    """The folders from the root on in which the folders of the layout lie."""
    used = {folder for folder in (layout.train, layout.validation, layout.test) if folder}
    above = {parent for folder in used for parent in folder.parents}
    return sorted(parent for parent in above - used if parent.is_relative_to(root))


def name_of(root: Path) -> str:
    """The folder's own name, made fit for a file name. Results state it, and never a whole path."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", root.resolve().name).strip("-.") or "folder"


def images_by_class(folder: Path) -> Classes:
    """The image files of each class folder, sorted.

    Raises:
        UserError: if there is no class folder, or one without images, or with a name that is not
            UTF-8.
    """
    reader = FolderReader(folder)
    classes = _whole(folder, _read_classes(folder, reader, classes=FOLDERS))
    reader.report()
    return classes


def _split_folders(layout: Layout, reader: FolderReader, *, classes: str) -> Contents:
    """The splits as the user has drawn them.

    Raises:
        UserError: if a class has no training images.
    """
    folders = [folder for folder in (layout.train, layout.validation, layout.test) if folder]
    found = _named([_read_classes(folder, reader, classes=classes) for folder in folders])
    names = unified([list(split) for split in found], where=layout.train.parent)
    train, *held_out = (
        {words[name]: images for name, images in split.items()}
        for words, split in zip(names, found, strict=True)
    )
    for folder, split in zip(folders[1:], held_out, strict=True):
        for name in sorted(split.keys() - train.keys()):
            if split[name]:
                raise UserError(
                    f"class {name!r} is in {folder} and not in {layout.train}; expected it in both"
                )
            report(f"{folder / name} is left out: it has no images, and {layout.train} has no such")
    _whole(layout.train, train)
    ordered = sorted(train)
    if layout.validation:
        without = [name for name in ordered if not held_out[0].get(name)]
        if without:
            report(f"{layout.validation}: {counted_classes(without)} without images there")
    parts = [[split.get(name, []) for name in ordered] for split in (train, *held_out)]
    validation = labelled(parts[1]) if layout.validation else None
    return Contents(tuple(ordered), labelled(parts[0]), labelled(parts[-1]), validation=validation)


def _one_folder(root: Path, reader: FolderReader, *, split_seed: int, classes: str) -> Contents:
    (found,) = _named([_whole(root, _read_classes(root, reader, classes=classes))])
    check_distinct(found, where=root)
    for name, images in found.items():
        if len(images) == 1:
            raise UserError(
                f"{root / name} has one image; expected at least two, one to train and one to test"
            )
    num_test = [max(1, round(TEST_SHARE * len(images))) for images in found.values()]
    return split_classes(found, num_test, split_seed=split_seed)


def _read_classes(folder: Path, reader: FolderReader, *, classes: str) -> Classes:
    """The images of each class below the split's folder, in order of the classes' names."""
    listing = reader.listing(folder)
    check_distinct((below.name for below in listing.folders), where=folder)
    for below in listing.folders:
        check_utf8(below, below.name)
    _leave_beside(folder, reader)
    found = {below: reader.images_below(below) for below in listing.folders}
    if classes == LEAVES:
        return _leaves(folder, found)
    _say_deeper(folder, found)
    return {
        below.name: sorted(image for _, images in parts for image in images)
        for below, parts in found.items()
    }


def _leave_beside(folder: Path, reader: FolderReader) -> None:
    """Counts the files that lie directly in a folder of folders, and says how many are images."""
    listing = reader.listing(folder)
    reader.others += listing.others
    reader.left_out[NOT_AN_IMAGE] += listing.others.total()
    if listing.images:
        reader.left_out[BESIDE_CLASSES] += len(listing.images)
        report(
            f"{folder}: {counted_images(len(listing.images))} beside the class folders left out; "
            "an image's folder is its class"
        )


def _called_like_others(layout: Layout, contents: Contents) -> Iterator[str]:
    """Warns of folders that are called like a class and lie in the folder of another one."""
    names = {composed(name) for name in contents.class_names}
    held_out = (layout.validation, contents.validation), (layout.test, contents.test)
    found: Counter[Path] = Counter()
    for folder, split in ((layout.train, contents.train), *held_out):
        images = cast("Sequence[Path]", split.images) if split else ()
        for place, count in Counter(image.parent for image in images).items():
            below = place.relative_to(folder or layout.train)  # without folder, a part of train's
            own, *inner = below.parts
            if names.intersection(map(composed, inner)) - {composed(own)}:
                found[below] += count
    if found:
        named = [f"{below.as_posix()} ({counted_images(found[below])})" for below in sorted(found)]
        yield (
            f"folders that are called like a class lie in the folder of another one, and their "
            f"images count for that: {some(named)}; move them if that is wrong"
        )


def _leaves(folder: Path, found: Mapping[Path, list[tuple[Path, list[Path]]]]) -> Classes:
    """The images of each folder that images lie directly in, by its path below `folder`."""
    leaves = {
        leaf.relative_to(folder).as_posix(): images
        for parts in found.values()
        for leaf, images in parts
        if images
    }
    for path in leaves:
        check_utf8(folder / path, path)
    return leaves


def _named(splits: Sequence[Classes]) -> list[Classes]:
    """The splits with their classes' names for their folders' paths, in order of the names.

    The name is the last part of the path or, if another path ends in the same one, the whole path.
    """
    paths = {composed(path) for split in splits for path in split}
    ends = Counter(path.rpartition("/")[2] for path in paths)

    def name_of_path(path: str) -> str:
        end = path.rpartition("/")[2]
        return end if ends[composed(end)] == 1 else path

    named = [{name_of_path(path): images for path, images in split.items()} for split in splits]
    return [{name: split[name] for name in sorted(split)} for split in named]


def _say_deeper(folder: Path, found: Mapping[Path, list[tuple[Path, list[Path]]]]) -> None:
    """Names the classes that hold images in several folders below them and none themselves."""
    deeper = []
    known: Counter[str] = Counter()
    for below, parts in found.items():
        leaves = [leaf.name for leaf, images in parts if images]
        known.update({*leaves})
        if len(leaves) > 1 and below not in [leaf for leaf, images in parts if images]:
            deeper.append(f"{below.name} is one class, with the images of {some(leaves)}")
    if deeper:
        named = some(deeper, between="; ")
        # A name in two classes is that of a part, or of a class that `leaves` would take for two.
        advice = ". If each of those is a class, take --classes leaves"
        report(f"{folder}: {named}{advice if max(known.values()) == 1 else ''}")


def _whole(folder: Path, classes: Classes) -> Classes:
    """Returns `classes`.

    Raises:
        UserError: if there are none, or one has no images.
    """
    if not classes:
        raise UserError(f"{folder} has no class folders; {EXPECTED}")
    for name, images in classes.items():
        if not images:
            raise UserError(f"{folder / name} has no images ({READABLE}); add some or remove it")
    return classes
