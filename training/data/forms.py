"""What lies at a path: a folder of images, a list of them, tables, an archive or shards."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from runtime.base.errors import UserError
from training.config.data_columns import EXAMPLE, Columns
from training.data.archive_members import ArchiveReader, Members
from training.data.brace_patterns import is_pattern, names_of
from training.data.class_folders import has_class_folders
from training.data.data_name import PARQUET, TAR, ZIP, data_name
from training.data.folders import FOLDERS, folder_contents, folder_source
from training.data.labelled_rows import Row, contents_of_rows, with_changed_splits
from training.data.list_advice import check_nothing_is_lost
from training.data.list_choice import lists_beside
from training.data.listed_data import Place, list_contents, root_of_lists
from training.data.listing import FolderReader
from training.data.loading_progress import report
from training.data.shards import refuse_sets_in, rows_of_shards, rows_of_tables, shards_below
from training.data.source import Contents, Picture, Source, Split, source_of_pictures
from training.data.tar_members import tar_members
from training.data.text_tables import LIST_SUFFIXES
from training.data.web_dataset import Captions, captions_of, is_web_dataset, samples_of
from training.data.zip_members import zip_members

_COMPRESSED_TARS = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tbz2", ".txz")
FORMS = "a folder, a list (.csv, .tsv, .jsonl), .parquet, .tar or .zip"


@dataclass(frozen=True)
class Request:
    """How data are to be read.

    Attributes:
        split_seed: draws the test split of data that have none.
        classes: which folders are classes, as in `folder_source`.
        columns: the columns that the user has named.
        progress: whether to say what was taken for what. What is left out is always said.
        allow_leaks: whether groups may lie on both sides of the splits that the data state.
        of_a_run: whether `classes` and `columns` are those of a run, whose data may have another
            form by now. Then they are ignored where they mean nothing.
    """

    split_seed: int
    classes: str
    columns: Columns
    progress: bool
    allow_leaks: bool
    of_a_run: bool = False


class _ArchivePlace(Place):
    """Where lists and images lie: in an archive."""

    def __init__(self, reader: ArchiveReader) -> None:
        super().__init__(reader)
        self._archive = reader

    def has(self, path: Path) -> bool:
        return self._archive.has(path)

    def picture(self, path: Path) -> Picture:
        return self._archive.picture(path)

    def content(self, path: Path) -> bytes:
        return self._archive.content(path)


def is_data(path: Path) -> bool:
    """Whether something lies there that `open_source` reads or refuses with a reason."""
    return path.exists() or is_pattern(path.name)


def open_source(path: Path, request: Request) -> Source:
    """The data set at `path`: a folder, a file, or a pattern that stands for several files.

    Raises:
        UserError: if there is none of these, or if it cannot be used.
    """
    if not path.exists() and is_pattern(path.name):
        return _shard_pattern(path, request)
    if path.is_dir():
        return _folder(path, request)
    if not path.is_file():  # reading a pipe could block
        raise UserError(f"{path} is no regular file; expected {FORMS}")
    name = path.name.lower()
    if name.endswith(LIST_SUFFIXES):
        return _lists([path], path, request)
    if name.endswith(PARQUET):
        return _tables([path], path, request)
    if name.endswith((TAR, *_COMPRESSED_TARS)):
        return _tars([path], path, request)
    if name.endswith(ZIP):
        left_out: Counter[str] = Counter()
        return _archive(path, zip_members(path, left_out), request, left_out)
    raise UserError(f"{path} is none of what data may be: {FORMS}")


def _folder(root: Path, request: Request) -> Source:
    place = Place(FolderReader(root))
    packed = {suffix: shards_below(root, suffix, place.reader) for suffix in (PARQUET, TAR)}
    chosen = lists_beside(root, place, request.columns, packed=any(packed.values()))
    if chosen.lists:
        return _lists(chosen.lists, root, request)
    has_classes = has_class_folders(root, place.reader)
    for suffix, files in packed.items():
        if files and has_classes:
            report(f"{root}: its class folders are read, and not {files[0].name}")
        elif files:
            report(f"{root}: {len(files)} {suffix} files are read")
            read = _tables if suffix == PARQUET else _tars
            return read(files, root, request)
    if not has_classes:
        refuse_sets_in(root, tuple(packed), place.reader)
    _refuse_columns(root, request)
    source = folder_source(
        root, split_seed=request.split_seed, classes=request.classes, progress=request.progress
    )
    check_nothing_is_lost(root, place, chosen.beside, source.read(), of_a_run=request.of_a_run)
    return replace(source, warnings=(*source.warnings, *chosen.warnings))


def _shard_pattern(pattern: Path, request: Request) -> Source:
    files = [pattern.with_name(name) for name in names_of(pattern.name)]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise UserError(
            f"{pattern} stands for {len(files)} files, and {len(missing)} of them are not there, "
            f"first {missing[0].name}"
        )
    for suffix, read in ((TAR, _tars), (PARQUET, _tables)):
        if all(file.name.lower().endswith(suffix) for file in files):
            return read(files, pattern.parent, request)
    raise UserError(f"{pattern} stands for files of several kinds; expected .tar or .parquet")


def _lists(lists: Sequence[Path], root: Path, request: Request) -> Source:
    _refuse_classes(lists[0], request)
    place = Place(FolderReader(root_of_lists(lists)))
    contents = list_contents(
        lists,
        place,
        request.columns,
        split_seed=request.split_seed,
        progress=request.progress,
        left_out=place.reader.left_out,
        allow_leaks=request.allow_leaks,
        whole=root if root.is_dir() else None,
    )
    return source_of_pictures(
        data_name(root if len(lists) > 1 else lists[0]),
        root_of_lists(lists),
        contents,
        lists,
        left_out=+place.reader.left_out,
    )


def _tables(files: Sequence[Path], root: Path, request: Request) -> Source:
    _refuse_classes(root, request)
    left_out: Counter[str] = Counter()
    place = Place(FolderReader(files[0].parent))
    rows = rows_of_tables(
        files,
        request.columns,
        place,
        root=root,
        progress=request.progress,
        left_out=left_out,
    )
    return _source_of_rows(rows, files, root, request, left_out)


def _tars(files: Sequence[Path], root: Path, request: Request) -> Source:
    left_out: Counter[str] = Counter()
    members = tar_members(files[0], left_out)
    coming = (samples_of(tar_members(file, left_out)) for file in files[1:])  # to save memory
    samples = [samples_of(members)]
    if captions := captions_of(files[0], members, samples[0]):
        if len(files) > 1:
            raise UserError(
                f"{files[0]} has class folders with .txt files beside the pictures that name other "
                f"classes, or none; expected one tar file of folders instead of {len(files)}, or "
                "WebDataset with the classes in .cls files"
            )
        return _archive(files[0], members, request, left_out, captions)
    while not is_web_dataset(samples[-1]):
        if len(files) == 1:
            return _archive(files[0], members, request, left_out)
        if len(samples) == len(files):
            raise UserError(
                f"{root}: none of its {len(files)} tar files has a picture with its class beside "
                "it (1.jpg with 1.cls, 1.json or 1.txt); expected WebDataset, or one tar of folders"
            )
        samples.append(next(coming))
    _refuse_classes(root, request)
    if request.progress:
        report(f"{root}: WebDataset, the members of a sample have one name")
    found = chain(samples, coming)
    rows = rows_of_shards(files, found, request.columns, root=root, left_out=left_out)
    return _source_of_rows(rows, files, root, request, left_out)


def _source_of_rows(
    rows: Sequence[Row],
    files: Sequence[Path],
    root: Path,
    request: Request,
    left_out: Counter[str],
) -> Source:
    contents = contents_of_rows(
        rows,
        where=root,
        split_seed=request.split_seed,
        progress=request.progress,
        left_out=left_out,
        allow_leaks=request.allow_leaks,
    )
    return source_of_pictures(data_name(root), root, contents, files, left_out=+left_out)


def _archive(
    archive: Path,
    members: Members,
    request: Request,
    left_out: Counter[str],
    captions: Captions | None = None,
) -> Source:
    """The class folders in an archive, or the images that a list in it names."""
    doubts = [captions.said] if captions is not None and captions.doubtful else []
    if captions is not None and not captions.doubtful:
        report(f"{archive}: its {captions.said}")
    reader = ArchiveReader(archive, members)
    reader.left_out += left_out
    place = _ArchivePlace(reader)
    chosen = lists_beside(archive, place, request.columns, packed=False)
    if chosen.lists:
        _refuse_classes(chosen.lists[0], request)
        contents = list_contents(
            chosen.lists,
            place,
            request.columns,
            split_seed=request.split_seed,
            progress=request.progress,
            left_out=reader.left_out,
            allow_leaks=request.allow_leaks,
            whole=archive,
        )
    else:
        _refuse_columns(archive, request)
        reader = ArchiveReader(archive, members)
        reader.left_out += left_out
        found = folder_contents(
            archive,
            reader,
            split_seed=request.split_seed,
            classes=request.classes,
            progress=request.progress,
        )
        check_nothing_is_lost(archive, place, chosen.beside, found, of_a_run=request.of_a_run)
        contents = _packed(found, reader)
    contents = replace(contents, warnings=(*contents.warnings, *chosen.warnings, *doubts))
    return source_of_pictures(
        data_name(archive), archive, contents, [archive], left_out=+reader.left_out
    )


def _packed(contents: Contents, reader: ArchiveReader) -> Contents:
    """`contents` with the pictures in the archive for their paths."""

    def packed(split: Split) -> Split:
        assert not isinstance(split.images, np.ndarray)
        files = [image for image in split.images if isinstance(image, Path)]
        return replace(
            split,
            images=[reader.picture(file) for file in files],
            paths=tuple(reader.path_of(file) for file in files),
        )

    def changed(picture: Picture) -> Picture:
        return reader.picture(picture) if isinstance(picture, Path) else picture

    return with_changed_splits(contents, packed, changed)


def _refuse_columns(path: Path, request: Request) -> None:
    if request.columns != Columns() and not request.of_a_run:
        raise UserError(
            f"{EXAMPLE} is for lists and tables; {path} is read as class folders, leave it out"
        )


def _refuse_classes(path: Path, request: Request) -> None:
    if request.classes != FOLDERS and not request.of_a_run:
        raise UserError(f"--classes is for folders of images; {path} names the classes itself")
