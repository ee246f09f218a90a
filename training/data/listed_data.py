"""A list of images as a data set, alone or beside the images in a folder or an archive."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from runtime.base.errors import UserError
from training.config.data_columns import Columns
from training.data.labelled_rows import contents_of_rows
from training.data.list_rows import ListRows
from training.data.listed_images import ListedImages
from training.data.listing import FolderReader
from training.data.source import Contents, Picture
from training.data.split_words import Role, role_of
from training.data.text_tables import Table, read_list


class Place:
    """Where lists and images lie: a folder of the disk."""

    def __init__(self, reader: FolderReader) -> None:
        self.reader = reader

    def has(self, path: Path) -> bool:
        """Whether there is a file of that path."""
        return path.is_file()

    def picture(self, path: Path) -> Picture:
        """The picture in the file of that path."""
        return path

    def content(self, path: Path) -> bytes:
        """The bytes of the file of that path.

        Raises:
            UserError: if it cannot be read.
        """
        try:
            return path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror})") from error


def list_contents(
    lists: Sequence[Path],
    place: Place,
    asked: Columns,
    *,
    split_seed: int,
    progress: bool,
    left_out: Counter[str],
    allow_leaks: bool,
    whole: Path | None,
) -> Contents:
    """The splits of the images that the lists name. Of several lists, each is a split.

    Args:
        lists: the lists.
        place: where they and their images lie.
        asked: the columns that the user has named.
        split_seed: draws the test split of data that have none.
        progress: whether to say what was taken for what.
        left_out: counts what is left out.
        allow_leaks: whether groups may lie on both sides of the splits.
        whole: the folder or archive that the user gave as data, whose other images are counted;
            None: the user gave the list.

    Raises:
        UserError: if a list cannot be read, or what it says cannot be used.
    """
    where = lists[0] if len(lists) == 1 else root_of_lists(lists)
    found = ListRows(place.reader, progress=progress, left_out=left_out)
    for file in lists:
        found.add(
            table_of_list(file, place, asked),
            ListedImages(file, place.reader, place.has, root=root_of_lists(lists)),
            asked,
            where=file,
            picture=place.picture,
            split=role_of_list(file, root_of_lists(lists)) if len(lists) > 1 else None,
        )
    found.count_not_listed(where=where, whole=whole)
    return contents_of_rows(
        found.rows,
        where=where,
        split_seed=split_seed,
        progress=progress,
        left_out=left_out,
        allow_leaks=allow_leaks,
    )


def root_of_lists(lists: Sequence[Path]) -> Path:
    """The folder that paths are relative to: that of the lists, or the one that holds theirs."""
    folders = {file.parent for file in lists}
    return lists[0].parent if len(folders) == 1 else lists[0].parent.parent


def role_of_list(file: Path, root: Path) -> Role | None:
    """What a list's name says, or that of its folder where it is a folder in `root`."""
    return role_of(file.stem) or (None if file.parent == root else role_of(file.parent.name))


def table_of_list(file: Path, place: Place, asked: Columns) -> Table:
    """The table in a list.

    Raises:
        UserError: if it cannot be read.
    """
    return read_list(place.content(file), file.suffix, asked, where=str(file))
