"""What a list beside class folders states and the folders do not: groups, and a split.

Such a list is neither read nor left out without a word of the user. A split that is drawn from the
folders would put pictures of one patient on both sides, or train on the user's own test images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.base.errors import UserError
from training.config.data_columns import EXAMPLE
from training.data.source import Contents, splits_of
from training.data.split_words import Role, role_of
from training.data.table_columns import Found, usual_columns
from training.data.text_tables import Cell, Table

_HELD_OUT = (Role.VALIDATION, Role.TEST)


@dataclass(frozen=True)
class Facts:
    """What a list states of its images beside their classes.

    Attributes:
        file: the list.
        columns: of the list, by their usual names.
        images: the files of the first images that it names.
        grouped: whether it says that several images are of one group.
        by_name: whether the list's name says that its images are held out.
        by_column: whether a column says that some images are held out.
    """

    file: Path
    columns: Found
    images: tuple[Path, ...]
    grouped: bool
    by_name: bool
    by_column: bool

    def __bool__(self) -> bool:
        return self.grouped or self.by_name or self.by_column

    @property
    def in_words(self) -> str:
        """What the list states, and where."""
        parts = [f"groups in column {self.columns.group!r}"] if self.grouped else []
        if self.by_column:
            parts.append(f"a split in column {self.columns.split!r}")
        elif self.by_name:
            parts.append("a split by its name")
        return " and ".join(parts)

    @property
    def option(self) -> str:
        """The option that reads the list."""
        option = f"--columns image={self.columns.image},label={self.columns.label or 'label'}"
        if self.columns.split:
            option += f",split={self.columns.split if self.by_column else ''}"
        return f"{option},group={self.columns.group}" if self.grouped else option


def facts_of(file: Path, table: Table, role: Role | None, images: Sequence[Path | None]) -> Facts:
    """What the list states. `role` is what its name says, `images` where its first images are."""
    columns = usual_columns(table.names)
    groups = [group for group in _cells(table, columns.group) if group]
    splits = _cells(table, columns.split)
    held_out = any(isinstance(cell, str) and role_of(cell) in _HELD_OUT for cell in splits)
    return Facts(
        file,
        columns,
        tuple(image for image in images if image),
        grouped=len({*map(str, groups)}) < len(groups),
        by_name=role in _HELD_OUT,
        by_column=held_out,
    )


def check_nothing_is_lost(lists: Sequence[Facts], contents: Contents, *, of_a_run: bool) -> None:
    """Checks that no list states more of the images in class folders than the folders do.

    Args:
        lists: beside the folders, which agree with the folders or state no classes.
        contents: of the folders. Where the folders state the split, they are what the user means.
        of_a_run: whether a run was trained on the folders. Then they are meant, too.

    Raises:
        UserError: if one states groups or a split. It says how to read the list, and how not to.
    """
    if of_a_run or contents.redraw is None or not any(lists):
        return
    pictures = {picture for split in splits_of(contents) for picture in split.images}
    found = [one for one in lists if one and not pictures.isdisjoint(one.images)]
    if not found:
        return
    options = {one.option for one in found}
    option = options.pop() if len(options) == 1 else EXAMPLE
    if not all(one.columns.label for one in found):
        option = f"it a column for the classes, called label, and {option}"
    stated = ", and ".join(f"{one.file} states {one.in_words}" for one in found)
    raise UserError(
        f"{stated}, and the class folders beside it do not; give {option} to read "
        f"{'it' if len(found) == 1 else 'them'}, or take the file away to read the folders alone"
    )


def _cells(table: Table, column: str) -> list[Cell]:
    place = table.names.index(column) if column else None
    return [] if place is None else [cells[place] for cells in table.rows]
