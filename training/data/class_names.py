"""The names of classes: which folders of two splits are one class, and which names are too alike.

Two names are one if they differ only in their Unicode form: a Mac writes "é" as two characters
where other systems write one. Names that differ only in case or in space around them are refused,
because nobody can tell whether they mean one class or two.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from runtime.base.errors import UserError

_SHOWN = 10


def classes_line(names: Sequence[str]) -> str:
    """The classes for people: "3 classes: cat, dog, emu"; of many, the first ones."""
    shown = ", ".join(_printable(name) for name in names[:_SHOWN])
    rest = f", ... and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} classes: {shown}{rest}"


def counted_classes(names: Sequence[str]) -> str:
    """Some of the classes: "1 class (cat)", "20 classes (cat, dog, ... and 8 more)"."""
    number, shown = classes_line(names).split(": ", 1)
    return f"{'1 class' if len(names) == 1 else number} ({shown})"


def composed(name: str) -> str:
    """The name in the Unicode form NFC."""
    return unicodedata.normalize("NFC", name)


def check_utf8(folder: Path, name: str) -> None:
    """Checks that a class can be named after `folder`.

    Raises:
        UserError: if the name is in another encoding than UTF-8.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{folder} is named in another encoding than UTF-8; rename the folder, "
            "its name is the class's"
        ) from None


def check_distinct(names: Iterable[str], *, where: Path) -> None:
    """Checks that no two of the names of folders in `where` look alike.

    Raises:
        UserError: if two differ only in Unicode form, case or surrounding space. It shows both so
            that the difference is visible.
    """
    known: dict[str, str] = {}
    for name in names:
        former = known.setdefault(_folded(name), name)
        if former != name:
            raise UserError(
                f"{where} has the classes {visible(former)} and {visible(name)}, which differ only "
                f"in {_difference(former, name)}; rename one, or move the images of both into one"
            )


def unified(splits: Sequence[Sequence[str]], *, where: Path) -> list[dict[str, str]]:
    """For each split, the class of each of its folders' names.

    A folder's name is the class's. Where two splits write one name in two Unicode forms, the class
    has the form NFC.

    Raises:
        UserError: if names look alike and are not one class.
    """
    for names in splits:
        check_distinct(names, where=where)
    written: dict[str, set[str]] = {}
    for names in splits:
        for name in names:
            written.setdefault(composed(name), set()).add(name)
    check_distinct(written, where=where)
    return [
        {name: name if len(written[composed(name)]) == 1 else composed(name) for name in names}
        for names in splits
    ]


def visible(name: str) -> str:
    """The name in quotes, with codes for characters that another form could be mistaken for."""
    shown = ascii(name)
    return shown if shown == repr(name) else f"{name!r} ({shown})"


def _folded(name: str) -> str:
    """What names that look alike have in common."""
    name = composed(name).lower()
    start, end = 0, len(name)
    while start < end and _is_blank(name[start]):
        start += 1
    while end > start and _is_blank(name[end - 1]):
        end -= 1
    return composed(name[start:end])


def _is_blank(character: str) -> bool:
    """Spaces of every kind, and characters that are not shown at all."""
    return character.isspace() or unicodedata.category(character) in ("Cc", "Cf", "Zs")


def _difference(first: str, second: str) -> str:
    if composed(first) == composed(second):
        return "their Unicode form"
    if composed(first).lower() == composed(second).lower():
        return "case"
    return "the space around them, or in case"


def _printable(name: str) -> str:
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in name
    )
