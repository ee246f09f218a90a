"""From a list of images to labelled rows: the columns, the files, what is missing or doubled."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from runtime.base.errors import UserError
from training.config.data_columns import Columns
from training.data.class_lists import counted_images
from training.data.labelled_rows import Row
from training.data.listed_images import ListedImages
from training.data.loading_progress import report
from training.data.source import DUPLICATE, MISSING, NOT_LISTED, Picture
from training.data.split_words import Role
from training.data.table_cells import group_in, image_name_in, label_in, split_in
from training.data.table_columns import Found, find_columns, said
from training.data.text_tables import Table

_MAX_MISSING_SHARE = 0.01
_MAX_NAMED = 5


def rows_of_list(
    table: Table,
    images: ListedImages,
    asked: Columns,
    *,
    where: Path,
    picture: Callable[[Path], Picture],
    split: Role | None,
    progress: bool,
    left_out: Counter[str],
) -> list[Row]:
    """The rows whose image is there, each image once.

    Args:
        table: of the list.
        images: finds the files that it names.
        asked: the columns that the user has named.
        where: the list, for messages.
        picture: gives the image in the file of a path.
        split: what all images are for, where the list does not say; None: nothing does.
        progress: whether to say which columns are read.
        left_out: counts rows whose image is missing, doubled rows, and images in no row.

    Raises:
        UserError: if a column is not found, a cell cannot be used, an image has two classes, or
            more than 1 % of the images are missing (but one may always be).
    """
    columns = find_columns(table.names, asked, where=str(where))
    if progress:
        report(f"{where}: {said(columns, table.names)}")
    rows, lines = _read(table, columns, where, split)
    images.choose_folder([name for name, _ in rows])
    if progress and images.base != images.folder:
        report(f"{where}: its images are in {images.base.relative_to(images.folder)}/")
    kept: dict[Path, tuple[Row, int]] = {}
    missing: list[str] = []
    doubled = 0
    for (name, row), line in zip(rows, lines, strict=True):
        file = images.find(name)
        if file is None and (not row.label or row.split is Role.UNLABELLED):
            file = images.base / name  # never opened; it is counted as an image without a class
        if file is None:
            missing.append(f"{name!r} in line {line}")
        elif file not in kept:
            found = Row(picture(file), images.path_of(file), row.label, row.split, row.group)
            kept[file] = (found, line)
        else:
            _check_same(kept[file], (row, line), where)
            doubled += 1
    _check_missing(missing, len(rows), where)
    for reason, count, words in (
        (MISSING, len(missing), ""),
        (DUPLICATE, doubled, "rows left out that name an image again, with the same class"),
        (NOT_LISTED, images.not_listed(list(kept)), "images beside them in no row, left out"),
    ):
        left_out[reason] += count
        if count and words:
            report(f"{where}: {count} {words}")
    return [row for row, _ in kept.values()]


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


def _check_same(former: tuple[Row, int], other: tuple[Row, int], where: Path) -> None:
    (first, first_line), (second, second_line) = former, other
    for word, one, two in (
        ("classes", first.label, second.label),
        ("splits", first.split and first.split.value, second.split and second.split.value),
        ("groups", first.group, second.group),
    ):
        if one != two:
            raise UserError(
                f"{where}: {first.path!r} has two {word}, {one!r} in line {first_line} and {two!r} "
                f"in line {second_line}; remove one of the rows"
            )


def _check_missing(missing: list[str], total: int, where: Path) -> None:
    """Names the missing images.

    Raises:
        UserError: if they are too many.
    """
    if not missing:
        return
    named = "; ".join(missing[:_MAX_NAMED]) + ("; ..." if len(missing) > _MAX_NAMED else "")
    allowed = max(1, int(_MAX_MISSING_SHARE * total))
    if len(missing) > allowed:
        raise UserError(
            f"{where}: {len(missing)} of {total} images are missing, at most {allowed} are left "
            f"out; the paths are relative to the list: {named}"
        )
    report(f"{where}: {counted_images(len(missing))} missing and left out: {named}")
