"""Parquet files as Hugging Face's `datasets` writes them, and others with images in a column."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runtime.base.errors import UserError
from training.config.data_columns import Columns
from training.data.labelled_rows import Row
from training.data.parquet_images import ParquetImage
from training.data.split_words import Role
from training.data.table_cells import group_in, label_in, split_in
from training.data.table_columns import Found, find_columns
from training.data.text_tables import Cell, Table, text_of

EXTRA = "parquet"


@dataclass(frozen=True)
class ParquetTable:
    """An open parquet file: its columns, and the names of the classes of each ClassLabel column."""

    path: Path
    file: Any
    class_names: dict[str, list[str]]

    @property
    def names(self) -> list[str]:
        return list(self.file.schema_arrow.names)

    def cells(self, column: str) -> list[object]:
        """The values of a column, or of one field of it: `image.path`."""
        values: list[object] = self.file.read(columns=[column]).column(0).combine_chunks()
        outer, _, field = column.partition(".")
        if field and outer in self.names:
            values = values.field(field)  # type: ignore[attr-defined]
        return list(values.to_pylist())  # type: ignore[attr-defined]

    def texts(self, column: str) -> list[Cell]:
        """The values of a column as those of a list are.

        Raises:
            UserError: if a value is no text.
        """
        return [
            text_of(value, where=f"{self.path}, column {column!r}, row {number}")
            for number, value in enumerate(self.cells(column))
        ]


def open_parquet(path: Path) -> ParquetTable:
    """Opens a file and reads what it says of itself.

    Raises:
        UserError: if pyarrow is not installed, or the file is no whole parquet file.
    """
    if find_spec("pyarrow") is None:
        raise UserError(
            f"{path} needs the package pyarrow, which is not installed; "
            f"`pip install '.[{EXTRA}]'` in SKD Edge's folder brings it"
        )
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"{path} is no whole parquet file ({str(error).splitlines()[0]}); get it again"
        ) from error
    return ParquetTable(path, file, _class_names(file.schema_arrow.metadata or {}))


def holds_pictures(table: ParquetTable, column: str) -> bool:
    """Whether a column holds pictures, and not the paths of files."""
    import pyarrow

    kind = table.file.schema_arrow.field(column).type
    return bool(
        pyarrow.types.is_struct(kind)
        or pyarrow.types.is_binary(kind)
        or pyarrow.types.is_large_binary(kind)
    )


def columns_of_parquet(table: ParquetTable, asked: Columns) -> Found:
    """The columns; that of the image may have any name where it is the only one with pictures.

    Raises:
        UserError: if there is none for the image or the label.
    """
    pictures = [name for name in table.names if holds_pictures(table, name)]
    if asked.image is None and len(pictures) == 1:
        asked = Columns(pictures[0], asked.label, asked.split, asked.group)
    return find_columns(table.names, asked, where=str(table.path))


def text_table(table: ParquetTable, columns: Found) -> Table:
    """The columns of a file that holds the paths of its images, as those of a list."""
    names = [name for name in vars(columns).values() if name]
    cells = [table.texts(name) for name in names]
    for column, what in ((columns.label, "class"), (columns.split, "split")):
        if column in table.class_names:
            cells[names.index(column)] = _named_cells(table, column, what)
    rows = list(zip(*cells, strict=True))
    return Table(tuple(names), rows, range(1, len(rows) + 1))


def rows_of_parquet(
    table: ParquetTable,
    columns: Found,
    *,
    root: Path,
    split: Role | None,
) -> list[Row]:
    """The rows of a file with pictures.

    Args:
        table: the file.
        columns: of it.
        root: the data.
        split: what all rows are for, where no column says it; None: nothing does.

    Raises:
        UserError: if a cell cannot be used.
    """
    count = table.file.metadata.num_rows
    labels = _named_cells(table, columns.label, "class")
    splits = _named_cells(table, columns.split, "split") if columns.split else [""] * count
    groups: list[Cell] = table.texts(columns.group) if columns.group else [""] * count
    rows = []
    for number, (image, stored) in enumerate(_images(table, columns.image, root)):
        at = f"{table.path}, row {number}"
        role = split
        if columns.split:
            role = split_in(splits[number], column=columns.split, where=at)
        group = group_in(groups[number], where=at)
        rows.append(Row(image, stored, label_in(labels[number], where=at), role, group, stored))
    return rows


def _images(table: ParquetTable, column: str, root: Path) -> list[tuple[ParquetImage, str]]:
    """The picture of each row, and the path that the file states for it ("": none)."""
    import pyarrow

    kind = table.file.schema_arrow.field(column).type
    fields = [field.name for field in kind] if pyarrow.types.is_struct(kind) else []
    if fields and "bytes" not in fields:
        raise UserError(
            f"{table.path}: column {column!r} has the fields {', '.join(fields)}; "
            "expected the bytes of a picture"
        )
    paths: Sequence[object] = (
        table.cells(f"{column}.path") if "path" in fields else [None] * table.file.metadata.num_rows
    )
    found: list[tuple[ParquetImage, str]] = []
    cell = f"{column}.bytes" if fields else column
    for group in range(table.file.num_row_groups):
        may_lack = _may_lack_bytes(table, group, cell)
        for row in range(table.file.metadata.row_group(group).num_rows):
            number = len(found)
            stored = str(paths[number] or "").replace("\\", "/").lstrip("/")
            image = ParquetImage(
                path=table.path / (stored or f"#{number}"),
                file=table.path,
                column=cell,
                group=group,
                row=row,
                number=number,
                beside=table.path.parent / stored if may_lack and _is_path(stored) else None,
            )
            found.append((image, stored))
    return found


def _is_path(stored: str) -> bool:
    return bool(stored) and "\0" not in stored


def _may_lack_bytes(table: ParquetTable, group: int, cell: str) -> bool:
    """Whether a row group has rows without bytes, or does not say that it has none."""
    columns = table.file.metadata.row_group(group)
    for number in range(columns.num_columns):
        chunk = columns.column(number)
        if chunk.path_in_schema == cell:
            found = chunk.statistics
            return found is None or not found.has_null_count or found.null_count > 0
    return True


def _named_cells(table: ParquetTable, column: str, what: str) -> list[Cell]:
    """The class or the split of each row; "" for none, which `datasets` writes as -1.

    Args:
        table: the file.
        column: may be a ClassLabel column, whose numbers stand for names.
        what: the column holds, for messages: "class" or "split".

    Raises:
        UserError: if a number stands for no name.
    """
    names = table.class_names.get(column)
    if names is None:
        return table.texts(column)
    cells: list[Cell] = []
    for number, value in enumerate(table.cells(column)):
        if isinstance(value, str) or value is None or value == -1:
            cells.append("" if value in (None, -1) else str(value))
        elif isinstance(value, int) and 0 <= value < len(names):
            cells.append(names[value])
        else:
            raise UserError(
                f"{table.path}, row {number}: the {what} is {value!r}; expected 0 to "
                f"{len(names) - 1} for the {len(names)} names that the file states"
            )
    return cells


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """The names of each ClassLabel column, from what Hugging Face's `datasets` writes."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError):
        return {}
