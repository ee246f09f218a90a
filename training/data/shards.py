"""Tables and shards of one data set: which files they are, and which split each one is."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from runtime.base.errors import UserError
from runtime.base.shown_text import pasted, some
from training.config.data_columns import Columns
from training.data.labelled_rows import Row, with_own_paths
from training.data.list_rows import ListRows
from training.data.listed_data import Place
from training.data.listed_images import ListedImages
from training.data.listing import FolderReader
from training.data.loading_progress import report
from training.data.parquet_tables import (
    ParquetTable,
    columns_of_parquet,
    holds_pictures,
    open_parquet,
    rows_of_parquet,
    text_table,
)
from training.data.split_words import Role, holds_no_class, role_of
from training.data.table_columns import said
from training.data.web_dataset import Sample, rows_of_shard

_MAX_DEPTH = 3
_NUMBERED = re.compile(r"(.*)-(\d+)-of-(\d+)")


def shards_below(root: Path, suffix: str, reader: FolderReader) -> list[Path]:
    """The files with that ending in a folder, and in folders for splits or configurations in it."""

    def found(folder: Path, depth: int) -> list[Path]:
        files = reader.files(folder, (suffix,))
        folders = reader.listing(folder).folders if depth < _MAX_DEPTH else []
        for below in folders:
            if len(folders) == 1 or holds_no_class(below.name):
                files += found(below, depth + 1)
        return files

    return sorted(found(root, 0))


def refuse_sets_in(root: Path, suffixes: Sequence[str], reader: FolderReader) -> None:
    """Where a folder holds no pictures but data sets, such as a Hugging Face set's configurations.

    Raises:
        UserError: if folders in `root` hold files with one of the endings.
    """
    folders = reader.listing(root).folders
    for suffix in suffixes:
        if sets := [below for below in folders if shards_below(below, suffix, reader)]:
            raise UserError(
                f"{root} has no class folders with images, but {suffix} files in "
                f"{some([below.name for below in sets])}; expected one data set, such as --data "
                f"{pasted(sets[0])}"
            )


def roles_of(files: Sequence[Path], root: Path) -> list[Role | None]:
    """What each file is for, by its name or its folder's: `train-00000-of-00002.parquet`.

    None for all of them where no name says it, and of a single file.

    Raises:
        UserError: if only some of the names say it.
    """
    if len(files) == 1:
        return [None]
    roles = [_role(file, root) for file in files]
    if any(roles) and None in roles:
        unknown = [file.name for file, role in zip(files, roles, strict=True) if role is None]
        raise UserError(
            f"{root}: the names of {some(unknown)} say no split, and others do; expected train, "
            "val or test in each name, or in none"
        )
    _check_complete(files, root)
    return roles


def rows_of_shards(
    files: Sequence[Path],
    samples: Iterable[dict[Path, Sample]],
    asked: Columns,
    *,
    root: Path,
    left_out: Counter[str],
) -> list[Row]:
    """The rows of WebDataset shards.

    Raises:
        UserError: as `rows_of_shard`, and if only some of the names say a split.
    """
    rows: list[Row] = []
    for file, found, role in zip(files, samples, roles_of(files, root), strict=True):
        rows += rows_of_shard(file, found, asked, split=role, left_out=left_out)
    return with_own_paths(rows, root)


def rows_of_tables(
    files: Sequence[Path],
    asked: Columns,
    place: Place,
    *,
    root: Path,
    progress: bool,
    left_out: Counter[str],
) -> list[Row]:
    """The rows of parquet files, of pictures or of the paths of files.

    Raises:
        UserError: if pyarrow is not installed, or a file cannot be used.
    """
    packed: list[Row] = []
    listed = ListRows(place.reader, progress=False, left_out=left_out)
    roles = roles_of(files, root)
    for number, (file, role) in enumerate(zip(files, roles, strict=True)):
        table = open_parquet(file)
        columns = columns_of_parquet(table, asked)
        if number == 0 and progress:
            report(f"{file}: {said(columns, table.names)}")
            _say_order(table, columns.label)
        if holds_pictures(table, columns.image):
            packed += rows_of_parquet(table, columns, root=root, split=role)
            continue
        listed.add(
            text_table(table, columns),
            ListedImages(file, place.reader, place.has),
            Columns(**vars(columns)),
            where=file,
            picture=place.picture,
            split=role,
        )
    listed.count_not_listed(where=root, whole=None)
    return with_own_paths(packed, root) + listed.rows


def _role(file: Path, root: Path) -> Role | None:
    above = file.relative_to(root).parts[:-1] if file.is_relative_to(root) else ()
    numbered = _NUMBERED.fullmatch(file.stem)
    names = [numbered[1] if numbered else file.stem, *reversed(above)]
    return next((role for name in names if (role := role_of(name))), None)


def _check_complete(files: Sequence[Path], root: Path) -> None:
    """Says which numbered files are missing: `train-00001-of-00003`."""
    parts: defaultdict[tuple[Path, str, int], set[int]] = defaultdict(set)
    for file in files:
        if numbered := _NUMBERED.fullmatch(file.stem):
            parts[file.parent, numbered[1], int(numbered[3])].add(int(numbered[2]))
    for (folder, name, total), numbers in parts.items():
        if len(numbers) < total:
            report(f"{folder}: only {len(numbers)} of the {total} files of {name} are there")


def _say_order(table: ParquetTable, label: str) -> None:
    names = table.class_names.get(label)
    if names and names != sorted(names):
        report(
            f"{table.path}: classes are in order of their names, not of their numbers in the file"
        )
