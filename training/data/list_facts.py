"""What a list beside class folders states and the folders do not: groups, and a split.

Such a list is neither read nor left out without a word of the user. A split that is drawn from the
folders would put pictures of one patient on both sides, or train on the user's own test images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
        role: what the list's name says.
        by_column: whether a column says that some images are held out.
    """

    file: Path
    columns: Found
    images: tuple[Path, ...]
    grouped: bool
    role: Role | None
    by_column: bool

    @property
    def by_name(self) -> bool:
        """Whether the list's name says that its images are held out."""
        return self.role in _HELD_OUT

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


def option_for(lists: Sequence[Facts]) -> str:
    """The `--columns` that read these lists together, as far as their names decide.

    A purpose whose columns have several names is left to the usual names of each list.
    """
    parts = []
    for purpose in ("image", "label"):
        names = {getattr(one.columns, purpose) or purpose for one in lists}
        parts += [f"{purpose}={name}" for name in names if len(names) == 1]
    splits, groups = ({getattr(one.columns, of) for one in lists} for of in ("split", "group"))
    if not any(one.by_column for one in lists):
        parts += ["split="] if any(splits) or not parts else []
    elif len(splits) == 1:
        parts.append(f"split={splits.pop()}")
    if len(groups) == 1 and any(one.grouped for one in lists):
        parts.append(f"group={groups.pop()}")
    return ",".join(parts)


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
        role=role,
        by_column=held_out,
    )


def _cells(table: Table, column: str) -> list[Cell]:
    place = table.names.index(column) if column else None
    return [] if place is None else [cells[place] for cells in table.rows]
