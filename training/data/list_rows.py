"""From a list of images to labelled rows: the columns, the files, what is missing or doubled."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.base.errors import UserError
from runtime.base.shown_text import some
from training.config.data_columns import Columns
from training.data.class_lists import counted_images
from training.data.labelled_rows import Row
from training.data.listed_images import ListedImages
from training.data.listing import FolderReader
from training.data.loading_progress import report
from training.data.source import DUPLICATE, MISSING, NOT_LISTED, Picture
from training.data.split_words import Role
from training.data.table_cells import group_in, image_name_in, label_in, plain_label, split_in
from training.data.table_columns import Found, find_columns, said
from training.data.text_tables import Table

_MAX_MISSING_SHARE = 0.01
_MAX_NAMED = 5


@dataclass(frozen=True)
class _Listed:
    """A row whose image is there, and where it is written."""

    row: Row
    where: Path
    line: int


class ListRows:
    """The rows of all lists of one data set whose image is there, each image once in each list."""

    def __init__(self, reader: FolderReader, *, progress: bool, left_out: Counter[str]) -> None:
        """Prepares for the lists in the folders of `reader`.

        Args:
            reader: of the folder, or the archive, that the lists lie in.
            progress: whether to say which columns are read.
            left_out: counts rows whose image is missing, doubled rows, and images in no row.
        """
        self.rows: list[Row] = []
        self._reader = reader
        self._progress = progress
        self._left_out = left_out
        self._listed: dict[Path, _Listed] = {}
        self._folders: set[Path] = set()

    def add(
        self,
        table: Table,
        images: ListedImages,
        asked: Columns,
        *,
        where: Path,
        picture: Callable[[Path], Picture],
        split: Role | None,
    ) -> None:
        """Adds the rows of one list.

        Args:
            table: of the list.
            images: finds the files that it names.
            asked: the columns that the user has named.
            where: the list, for messages.
            picture: gives the image in the file of a path.
            split: what all images are for, where the list does not say; None: nothing does.

        Raises:
            UserError: if a column is not found, a cell cannot be used, an image has two classes, in
                this list or in a former one, or more than 1 % of the images are missing (but one
                may always be).
        """
        columns = find_columns(table.names, asked, where=str(where))
        if self._progress:
            report(f"{where}: {said(columns, table.names)}")
        rows, lines = _read(table, columns, where, split)
        images.choose_folders([name for name, _ in rows])
        kept: dict[Path, _Listed] = {}
        folders: set[Path] = set()
        missing: list[str] = []
        doubled = 0
        for (name, row), line in zip(rows, lines, strict=True):
            file = images.find(name, elsewhere=bool(row.label))
            found = file is not None
            if file is not None and file.is_relative_to(images.folder):
                folders.add(file.parent)
            if file is None and (not row.label or row.split is Role.UNLABELLED):
                # It is never opened, and counted as an image without a class.
                file = images.bases[0] / name
            if file is None:
                missing.append(f"{name!r} in line {line}")
            elif file not in kept:
                named = replace(
                    row, picture=picture(file) if found else file, path=images.path_of(file)
                )
                kept[file] = _Listed(named, where, line)
                self._check_former(file, kept[file])
            else:
                _check_same(kept[file], _Listed(row, where, line), ("class", "split", "group"))
                doubled += 1
        if self._progress and images.bases != (images.folder,):
            within = [f"{base.relative_to(images.folder)}/" for base in images.bases]
            report(f"{where}: its images are in {', '.join(within)}")
        _check_missing(missing, len(rows), where)
        self._left_out[MISSING] += len(missing)
        self._left_out[DUPLICATE] += doubled
        if doubled:
            report(
                f"{where}: {doubled} rows left out that name an image again, with the same class"
            )
        self.rows += [listed.row for listed in kept.values()]
        self._folders |= folders

    def count_not_listed(self, *, where: Path, whole: Path | None) -> None:
        """Counts the images that lie beside those of all lists, and are none of them.

        Args:
            where: the data, for messages.
            whole: the folder that is the data set, all of whose images count; None: the lists are,
                and only the folders of their images count.
        """
        holding = {above for file in self._listed for above in file.parents}
        if whole in holding:
            count = self._not_listed_below(whole, holding)
        else:
            count = sum(self._not_listed_in(folder) for folder in sorted(self._folders))
        self._left_out[NOT_LISTED] += count
        if count:
            report(f"{where}: {count} images beside the listed ones in no row, left out")

    def _not_listed_in(self, folder: Path) -> int:
        return sum(image not in self._listed for image in self._reader.listing(folder).images)

    def _not_listed_below(self, folder: Path, holding: set[Path]) -> int:
        if folder not in holding:
            return self._reader.count_below(folder)
        below = self._reader.listing(folder).folders
        deeper = sum(self._not_listed_below(one, holding) for one in below)
        return self._not_listed_in(folder) + deeper

    def _check_former(self, file: Path, listed: _Listed) -> None:
        """Checks that no list before says otherwise. An image may be in two splits, as a leak."""
        former = self._listed.setdefault(file, listed)
        if former.row.label and listed.row.label:
            _check_same(former, listed, ("class", "group"))


def _read(
    table: Table, columns: Found, where: Path, split: Role | None
) -> tuple[list[tuple[str, Row]], list[int]]:
    """The image's name and what is said of it, for each row."""
    place = {name: index for index, name in enumerate(table.names)}
    image, label = place[columns.image], place[columns.label]
    rows = []
    for cells, line in zip(table.rows, table.lines, strict=True):
        at = f"{where}, line {line}"
        role = split
        if columns.split:
            role = split_in(cells[place[columns.split]], column=columns.split, where=at)
        group = group_in(cells[place[columns.group]], where=at) if columns.group else ""
        name = image_name_in(cells[image], where=at)
        row = Row(Path(), name, label_in(cells[label], where=at), role, group)
        rows.append((name, row))
    return rows, list(table.lines)


def _check_same(former: _Listed, other: _Listed, facts: Sequence[str]) -> None:
    first, second = former.row, other.row
    at = f"line {former.line}"
    if former.where != other.where:
        at = f"{former.where}, {at}"
    for fact, words, one, two in (
        ("class", "classes", plain_label(first.label), plain_label(second.label)),
        ("split", "splits", first.split and first.split.value, second.split and second.split.value),
        ("group", "groups", first.group, second.group),
    ):
        if fact in facts and one != two:
            raise UserError(
                f"{other.where}: {first.path!r} has two {words}, {one!r} in {at} and {two!r} "
                f"in line {other.line}; remove one of the rows"
            )


def _check_missing(missing: list[str], total: int, where: Path) -> None:
    """Names the missing images.

    Raises:
        UserError: if they are too many.
    """
    if not missing:
        return
    named = some(missing, most=_MAX_NAMED, between="; ")
    allowed = max(1, int(_MAX_MISSING_SHARE * total))
    if len(missing) > allowed:
        raise UserError(
            f"{where}: {len(missing)} of {total} images are missing, at most {allowed} are left "
            f"out; the paths are relative to the list: {named}"
        )
    report(f"{where}: {counted_images(len(missing))} missing and left out: {named}")
