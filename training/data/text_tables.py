"""Reads lists of images: CSV as programs and Excel write it, TSV, and JSON lines."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

import msgspec

from runtime.base.errors import UserError
from training.config.data_columns import Columns
from training.data.table_columns import has_columns

LIST_SUFFIXES = (".csv", ".tsv", ".jsonl")
_SEPARATORS = (",", ";", "\t", "|")
_STATED_SEPARATOR = re.compile(r'sep=([^"\r\n])(?=[\r\n])', re.IGNORECASE)  # Excel's first line
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_MAX_WHOLE = 2**53  # from there on, floats are not every whole number

Cell = str | list[object] | dict[str, object]


@dataclass(frozen=True)
class Table:
    """The cells of a list, as text; in JSON lines and parquet files also lists and objects.

    Attributes:
        names: of the columns.
        rows: as many cells each as there are names.
        lines: the number of each row's line in the file, or of the row itself.
    """

    names: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    lines: Sequence[int]


def read_list(content: bytes, suffix: str, asked: Columns, *, where: str) -> Table:
    """The table in the bytes of a file with that suffix, one of LIST_SUFFIXES.

    Args:
        content: UTF-8, or UTF-16 with its mark.
        suffix: of the file's name.
        asked: the columns that the user has named. They help to find the separator.
        where: the file, for messages.

    Raises:
        UserError: if the file is not of that format, or has no rows.
    """
    try:
        utf16 = content.startswith(_UTF16)
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} is not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from error
    if suffix.lower() == ".jsonl":
        table = _read_json_lines(text, where)
    else:
        separators: Sequence[str] = ("\t",) if suffix.lower() == ".tsv" else _SEPARATORS
        if stated := _STATED_SEPARATOR.match(text):
            separators = stated[1]
            text = text[stated.end() :]  # the line stays as an empty one, so that lines are counted
        table = _read_separated(text, separators, asked, where)
    if not table.rows:
        raise UserError(f"{where} has no rows; expected a header and a row for each image")
    return table


def text_of(value: object, *, where: str = "") -> Cell:
    """A value of JSON or of a parquet file as a cell: "" for nothing.

    A whole number is written alike, whatever its type: pandas makes floats of a column of integers
    as soon as one value is missing. Bytes are text.

    Args:
        value: any.
        where: the file and the row, for messages.

    Raises:
        UserError: if bytes are no UTF-8.
    """
    if value is None or value != value:  # the latter is NaN
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, dict)):
        return value
    if isinstance(value, (float, Decimal)):
        whole = -_MAX_WHOLE < value < _MAX_WHOLE and value % 1 == 0
        return str(int(value)) if whole else str(value)
    if isinstance(value, bytes):
        try:
            return value.decode().strip()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{where}: the cell holds the bytes {value[:20]!r}, which are no UTF-8 text; "
                "expected text or a number"
            ) from error
    return str(value).strip()


def _read_separated(text: str, separators: Sequence[str], asked: Columns, where: str) -> Table:
    """The table, with the first separator that gives the columns for image and label."""
    headers = {separator: _header(text, separator, where) for separator in separators}
    fitting = [separator for separator in separators if has_columns(headers[separator], asked)]
    # Where none fits, it is the separator that gives most columns: a message will name them.
    fitting.append(max(separators, key=lambda separator: len(headers[separator])))
    records = _records(text, fitting[0], where)
    _, names = next(records, (0, []))
    names = [name.strip() for name in names]
    doubled = [name for name in names if name and names.count(name) > 1]
    if doubled:
        raise UserError(f"{where} has two columns {doubled[0]!r}; give one another name")
    rows: list[tuple[Cell, ...]] = []
    lines: list[int] = []
    for line, cells in records:
        if len(cells) > len(names) and any(cells[len(names) :]):
            raise UserError(
                f"{where}, line {line}: {len(cells)} cells, and the header has {len(names)}; "
                f"put cells that hold {fitting[0]!r} into double quotes"
            )
        padded = [*cells, *[""] * len(names)][: len(names)]
        rows.append(tuple(cell.strip() for cell in padded))
        lines.append(line)
    return Table(tuple(names), rows, lines)


def _header(text: str, separator: str, where: str) -> list[str]:
    """The names that the separator gives; [] where it cannot be the right one."""
    try:
        _, names = next(_records(text, separator, where), (0, []))
    except UserError:
        return []
    return [name.strip() for name in names]


def _records(text: str, separator: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """The number of the first line and the cells of each record that is not empty."""
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UserError(
                f"{where}, line {line}: not readable as a table ({error}); put cells with double "
                'quotes into double quotes, and write each of them twice: "a ""b"" c"'
            ) from error
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield line, cells


def _read_json_lines(text: str, where: str) -> Table:
    objects: list[dict[str, object]] = []
    lines: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            objects.append(msgspec.json.decode(line, type=dict[str, object]))
        except msgspec.DecodeError as error:
            raise UserError(
                f"{where}, line {number}: not a JSON object ({error}); expected one a line"
            ) from error
        lines.append(number)
    names = tuple(dict.fromkeys(name for fields in objects for name in fields))
    rows = [tuple(text_of(fields.get(name)) for name in names) for fields in objects]
    return Table(names, rows, lines)
