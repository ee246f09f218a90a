"""A list of images as a data set, alone or beside the images in a folder or an archive."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from runtime.base.errors import UserError
from training.config.data_columns import EXAMPLE, Columns
from training.data.labelled_rows import Row, contents_of_rows
from training.data.list_rows import rows_of_list
from training.data.listed_images import ListedImages
from training.data.listing import FolderReader
from training.data.loading_progress import report
from training.data.source import Contents, Picture
from training.data.split_words import Role, holds_no_class, role_of
from training.data.table_columns import find_columns, has_columns
from training.data.text_tables import LIST_SUFFIXES, Table, read_list


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
) -> Contents:
    """The splits of the images that the lists name. Of several lists, each is a split.

    Raises:
        UserError: if a list cannot be read, or what it says cannot be used.
    """
    rows: list[Row] = []
    for file in lists:
        rows += rows_of_list(
            _table(file, place, asked),
            ListedImages(file, place.reader, place.has, root=root_of_lists(lists)),
            asked,
            where=file,
            picture=place.picture,
            split=_role(file) if len(lists) > 1 else None,
            progress=progress,
            left_out=left_out,
        )
    where = lists[0] if len(lists) == 1 else root_of_lists(lists)
    return contents_of_rows(
        rows,
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


def lists_beside(root: Path, place: Place, asked: Columns) -> tuple[Path, ...]:
    """The list in `root` that says what its images are, or one for each split; () if there is none.

    Class folders win, and then a line says so. So it does of lists that are left out.

    Raises:
        UserError: if there are several lists, and which one is meant is not clear.
    """
    folder = _first_with_something(root, place.reader)
    files = place.reader.files(folder, LIST_SUFFIXES)
    if not files:  # Hugging Face has a `metadata.csv` in the folder of each split
        splits = [below for below in place.reader.listing(folder).folders if role_of(below.name)]
        files = [file for below in splits for file in place.reader.files(below, LIST_SUFFIXES)]
    lists = [file for file in files if _names_images(file, place, asked)]
    named_columns = asked != Columns()
    if not lists:
        # Of the only list beside images without class folders, a message will say what is wrong.
        alone = len(files) == 1 and (named_columns or not _may_have_classes(folder, place.reader))
        return tuple(files) if alone else ()
    if has_class_folders(folder, place.reader) and not named_columns:
        report(
            f"{folder}: its class folders are read, and not {_within(lists, folder)}; "
            f"{EXAMPLE} chooses the list"
        )
        return ()
    roles = [_role(file) for file in lists]
    unlabelled = [
        file
        for file, role in zip(lists, roles, strict=True)
        if role is Role.UNLABELLED and len(lists) > 1
    ]
    for file in unlabelled:
        report(f"{file} is left out: its name says that its images have no labels")
    lists = [file for file in lists if file not in unlabelled]
    roles = [_role(file) for file in lists]
    if len(lists) > 1 and (None in roles or Role.TRAIN not in roles or len({*roles}) < len(roles)):
        raise UserError(
            f"{folder} has the lists {_within(lists, folder)}; expected one, or "
            "one for each of train, val and test; name the one to read: --data FILE"
        )
    report(f"{folder}: the classes are those that {' and '.join(map(str, lists))} names")
    return tuple(lists)


def _role(file: Path) -> Role | None:
    """What a list's name says, or its folder's."""
    return role_of(file.stem) or role_of(file.parent.name)


def _within(files: Sequence[Path], folder: Path) -> str:
    return ", ".join(file.relative_to(folder).as_posix() for file in files)


def has_class_folders(root: Path, reader: FolderReader) -> bool:
    """Whether the folder, or a folder for a split in it, has folders that can only be classes."""
    folders = reader.listing(root).folders
    splits = [folder for folder in folders if holds_no_class(folder.name)]
    classes = [folder for folder in folders if folder not in splits and _holds(folder, reader)]
    if len(classes) > 1:
        return True
    return any(has_class_folders(folder, reader) for folder in splits)


def _may_have_classes(folder: Path, reader: FolderReader) -> bool:
    """Whether the folder holds a folder that may be a class, and no images itself."""
    listing = reader.listing(folder)
    others = [below for below in listing.folders if not holds_no_class(below.name)]
    return has_class_folders(folder, reader) or bool(others and not listing.images)


def _holds(folder: Path, reader: FolderReader) -> bool:
    """Whether images lie in the folder or below it."""
    listing = reader.listing(folder)
    return bool(listing.images) or any(_holds(below, reader) for below in listing.folders)


def _first_with_something(root: Path, reader: FolderReader) -> Path:
    """The folder itself, or the only one in it, as long as there is nothing else."""
    folder = root
    while True:
        listing = reader.listing(folder)
        if len(listing.folders) != 1 or listing.images or reader.files(folder, LIST_SUFFIXES):
            return folder
        folder = listing.folders[0]


def _names_images(file: Path, place: Place, asked: Columns) -> bool:
    """Whether the file is a list that names an image that is there."""
    try:
        table = _table(file, place, asked)
    except UserError:
        return False
    if not has_columns(table.names, asked):
        return False
    column = table.names.index(find_columns(table.names, asked, where="").image)
    names = [cells[column] for cells in table.rows if isinstance(cells[column], str)]
    images = ListedImages(file, place.reader, place.has)
    return images.some_exist([str(name) for name in names])


def _table(file: Path, place: Place, asked: Columns) -> Table:
    return read_list(place.content(file), file.suffix, asked, where=str(file))
