"""What the cells of a table say: a class, a split, a group. What is no single value is refused."""

import re
from collections.abc import Collection, Sequence

from runtime.base.errors import UserError
from training.data.split_words import Role, role_of
from training.data.text_tables import Cell, text_of

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_WHOLE_NUMBER = re.compile(r"(-?\d+)(?:\.0+)?")
_BETWEEN_LABELS = ("|", ";")


def label_in(cell: Cell, *, where: str) -> str:
    """The name of the class. A number is text: the class "3".

    Args:
        cell: "" for no class. A list of one name is that name.
        where: the file and the line, for messages.

    Raises:
        UserError: if the cell names several classes.
    """
    if isinstance(cell, list) and len(cell) == 1 and isinstance(cell[0], (str, int, float)):
        cell = text_of(cell[0])
    if not isinstance(cell, str):
        raise UserError(f"{where}: the class is {_short(cell)}; expected one class for each image")
    if any(sign in cell for sign in _BETWEEN_LABELS):
        raise UserError(
            f"{where}: the class {cell!r} looks like several, with {' or '.join(_BETWEEN_LABELS)} "
            "between them; expected one class for each image, with neither sign in its name"
        )
    return cell


def check_single(labels: Sequence[str], *, where: str) -> None:
    """Checks that no class is a list of others with commas between them.

    Raises:
        UserError: if each part of a name is a class itself.
    """
    names = set(labels)
    for name in sorted(names):
        parts = {part.strip() for part in name.split(",")}
        if len(parts) > 1 and parts <= names:
            raise UserError(
                f"{where}: the class {name!r} lists other classes; expected one for each image"
            )


def split_in(cell: Cell, *, column: str, where: str) -> Role:
    """What the image is for.

    Raises:
        UserError: if the cell is no word for a split.
    """
    role = role_of(cell) if isinstance(cell, str) else None
    if role is None:
        raise UserError(
            f"{where}: the split is {_short(cell)}; expected train, val or test in column "
            f"{column!r}, or --columns split= if it says something else"
        )
    return role


def group_in(cell: Cell, *, where: str) -> str:
    """The name of the group; "" for an image that is in none.

    "7.0" is the group "7": pandas writes a column of whole numbers so where one of them is missing,
    and another list of the same data may have none missing.

    Raises:
        UserError: if it is no single value.
    """
    if not isinstance(cell, str):
        raise UserError(f"{where}: the group is {_short(cell)}; expected one for each image")
    return plain_label(cell)


def plain_label(text: str) -> str:
    """The digits of a whole number: "7" of "7.0". Any other text stays what it is."""
    return _whole_number_of(text) or text


def names_of_labels(labels: Collection[str]) -> dict[str, str]:
    """The name of the class of each label: "7" for "7.0" where all are whole numbers, or itself.

    Such a column may be written with and without ".0" as that of the groups.
    """
    numbers = {label: number for label in labels if (number := _whole_number_of(label))}
    return numbers if len(numbers) == len(labels) else {label: label for label in labels}


def _whole_number_of(text: str) -> str | None:
    """The digits of a whole number: "7" of "7" and "7.0". None for any other text."""
    whole = _WHOLE_NUMBER.fullmatch(text)
    return whole[1] if whole else None


def image_name_in(cell: Cell, *, where: str) -> str:
    """The path of an image.

    Raises:
        UserError: if it is an address, or no text.
    """
    if not isinstance(cell, str):
        raise UserError(f"{where}: the image is {_short(cell)}; expected the path of a file")
    if _URL.match(cell):
        raise UserError(
            f"{where}: the image is {_short(cell)}, an address; download the images, and list "
            "the paths of the files"
        )
    return cell


def _short(cell: Cell) -> str:
    shown = repr(cell)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."  # noqa: PLR2004
