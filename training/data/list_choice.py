"""Which of the lists that lie beside images are read, and which of them are no lists or unusable.

What is wrong with a list that the user surely means is an error: without it, other images would be
trained on than the user believes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.base.errors import UserError
from training.config.data_columns import EXAMPLE, Columns
from training.data.class_folders import (
    first_with_something,
    has_class_folders,
    has_deeper_folders,
    holds_images,
    may_have_classes,
)
from training.data.data_name import NAMES_OF_LISTS
from training.data.list_facts import Facts, facts_of
from training.data.listed_data import Place, role_of_list, table_of_list
from training.data.listed_images import ListedImages
from training.data.listing import FolderReader
from training.data.loading_progress import report
from training.data.split_words import Role, is_plain, role_of
from training.data.table_cells import plain_label
from training.data.table_columns import (
    find_columns,
    has_image_column,
    has_label_column,
    usual_columns,
)
from training.data.text_tables import LIST_SUFFIXES, Cell

_COMPARED = 50  # rows whose classes are compared with the names of folders
_SPLITS = (Role.TRAIN, Role.VALIDATION, Role.TEST)


@dataclass(frozen=True)
class ListChoice:
    """The lists that are read, () if class folders are; and warnings of those that are not.

    `beside` is what lists state that are not read, and whose classes are those of the folders.
    """

    lists: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()
    beside: tuple[Facts, ...] = ()


@dataclass(frozen=True)
class _Candidate:
    """A file that may be a list of the images beside it.

    Attributes:
        file: its path.
        role: what its name, or its folder's, says.
        error: why it cannot be read, or has no columns for images and classes; None: it has them.
        unreadable: whether it is no table at all.
        image: whether it has a column for the images.
        label: whether it has a column for their classes.
        there: whether one of the first images that it names is there.
        agrees: whether the first ones lie in folders that are called as their classes.
        facts: what it states beside classes, if it agrees or has no classes.
    """

    file: Path
    role: Role | None
    error: UserError | None = None
    unreadable: bool = False
    image: bool = False
    label: bool = False
    there: bool = False
    agrees: bool = False
    facts: Facts | None = None

    @property
    def is_meant(self) -> bool:
        """Whether the user surely means it to be read."""
        if self.role in _SPLITS:
            # `training_log.csv`, without such columns, is no list.
            is_list = self.unreadable or self.image or self.label or is_plain(self.file.stem)
            return is_list and not self.is_without_labels
        return self.unreadable and self.file.stem.casefold() in NAMES_OF_LISTS

    @property
    def is_other_table(self) -> bool:
        """Whether it can be read and is no list: a log of a training, boxes around objects.

        A `train.csv` with images is one, whose column of classes has another name.
        """
        is_list = self.image and (self.label or is_plain(self.file.stem))
        return not self.unreadable and not is_list

    @property
    def is_without_labels(self) -> bool:
        """Whether it lists the images to be predicted, as competitions have them in `test.csv`."""
        return self.role is Role.TEST and self.image and not self.label

    @property
    def looks_like_a_list(self) -> bool:
        """Whether a line should say that it is left out."""
        listing = self.unreadable or (self.image and self.label)
        return listing or self.role is not None or self.file.stem.casefold() in NAMES_OF_LISTS

    def why_not(self) -> str:
        """What the line says."""
        if self.role is Role.UNLABELLED:
            return "its name says that its images have no labels"
        if self.is_without_labels:
            return "it has no column for the classes"
        return "none of its images is there" if self.error is None else str(self.error)


def lists_beside(root: Path, place: Place, asked: Columns, *, packed: bool) -> ListChoice:
    """The list in `root` that says what its images are, or one for each split, if there is any.

    Class folders win, and then a line says so, and a warning where a list names other classes. A
    line also says which lists are left out.

    Args:
        root: the folder.
        place: of the folder.
        asked: the columns that the user has named.
        packed: whether there are parquet or tar files, which hold images themselves.

    Raises:
        UserError: if there are several lists, and which one is meant is not clear, if there is one
            for a split and none to train on, or if one that is surely meant cannot be read.
    """
    folder = first_with_something(root, place.reader)
    files = place.reader.files(folder, LIST_SUFFIXES)
    if not files:  # Hugging Face has a `metadata.csv` in the folder of each split
        splits = [below for below in place.reader.listing(folder).folders if role_of(below.name)]
        files = [file for below in splits for file in place.reader.files(below, LIST_SUFFIXES)]
    found = [_judged(file, folder, place, asked) for file in files]
    usable = [one for one in found if one.there]
    labelled = [one for one in found if one.role is not Role.UNLABELLED]
    named_columns = asked != Columns()
    if not named_columns and has_class_folders(folder, place.reader):
        if dropped := [one.file for one in labelled if one.there or one.is_meant]:
            report(
                f"{folder}: its class folders are read, and not {_within(dropped, folder)}; "
                f"{EXAMPLE} chooses the list"
            )
        others = [one.file for one in labelled if one.there and not one.agrees]
        listing = [one for one in labelled if one.image and one.label]
        warnings = (*_warning(others, folder), *_unread(listing, folder))
        beside = tuple(one.facts for one in labelled if one.facts is not None)
        return ListChoice(warnings=warnings, beside=beside)
    if packed and not usable and not holds_images(folder, place.reader):
        for one in found:
            if one.is_meant:
                report(f"{one.file} is left out: {one.why_not()}")
        return ListChoice()
    chosen = _chosen(found, folder)
    if not chosen:
        only = _the_only_one(found, folder, place.reader, named_columns=named_columns)
        doubtful = [one for one in labelled if one.looks_like_a_list and not one.is_without_labels]
        return ListChoice(only, () if only else tuple(_unread(doubtful, folder)))
    lists = tuple(one.file for one in chosen)
    report(f"{folder}: the classes are those that {' and '.join(map(str, lists))} names")
    return ListChoice(lists)


def _warning(lists: Sequence[Path], folder: Path) -> tuple[str, ...]:
    if not lists:
        return ()
    return (
        f"classes are folders, and not those that {_within(lists, folder)} names; if the folders "
        f"only hold parts of the images, choose the list by {EXAMPLE}",
    )


def _unread(found: Sequence[_Candidate], folder: Path) -> Iterator[str]:
    """Warns of what seems to be a list of the images, and names none of those that are there."""
    for one in found:
        if not one.there:
            yield (
                f"classes are folders, and not those that {_within([one.file], folder)} may name, "
                f"which is not read: {one.why_not()}"
            )


def _chosen(found: Sequence[_Candidate], folder: Path) -> list[_Candidate]:
    """Those that are read. Reports the other lists.

    Raises:
        UserError: if one that is surely meant cannot be read, or there is none to train on.
    """
    whole = any(one.there and one.role is None for one in found)  # such as `labels.csv`
    meant = [one for one in found if one.is_meant and not (whole and one.is_other_table)]
    for one in meant:
        if one.error is not None and len(found) > 1:
            raise UserError(f"{one.error}; or name the list to read: --data FILE") from one.error
        if one.error is not None:
            raise one.error
    chosen = [one for one in found if one.there or one in meant]
    if len(chosen) > 1:
        chosen = [one for one in chosen if one.role is not Role.UNLABELLED]
    others = [one for one in found if one not in chosen] if chosen else []
    for one in others:
        if one.looks_like_a_list:
            report(f"{one.file} is left out: {one.why_not()}")
    if chosen:
        _check_roles(chosen, others, folder)
    return chosen


def _check_roles(chosen: Sequence[_Candidate], others: Sequence[_Candidate], folder: Path) -> None:
    """Checks that there is one list, or one for each split, and always one to train on.

    Raises:
        UserError: if it is otherwise. What is wrong with a list to train on is said first.
    """
    roles = [one.role for one in chosen]
    lists = [one.file for one in chosen]
    if Role.TRAIN not in roles and None not in roles:
        for one in others:
            if one.role is Role.TRAIN and one.error is not None:
                raise one.error
    if len(lists) > 1 and (None in roles or Role.TRAIN not in roles or len({*roles}) < len(roles)):
        raise UserError(
            f"{folder} has the lists {_within(lists, folder)}; expected one, or "
            "one for each of train, val and test; name the one to read: --data FILE"
        )
    (role, *_), (file, *_) = roles, lists
    if len(lists) == 1 and role not in (Role.TRAIN, None):
        raise UserError(
            f"{folder} has the list {_within(lists, folder)}, whose name says {role.value}, and "
            f"none to train on; expected one, such as train.csv; --data {file} reads this one "
            "alone, and draws the test images from it"
        )


def _the_only_one(
    found: Sequence[_Candidate], folder: Path, reader: FolderReader, *, named_columns: bool
) -> tuple[Path, ...]:
    """The file of which a message will say what is wrong; () if it need not be a list.

    Raises:
        UserError: if there is a file that is no table, and no class folders could be meant instead.
    """
    if named_columns or not has_deeper_folders(folder, reader):
        for one in found:
            if one.unreadable and one.error is not None:
                raise one.error
        listing = [one.file for one in found if one.image and one.label]
        if len(listing) == 1:
            return tuple(listing)
    alone = len(found) == 1 and (named_columns or not may_have_classes(folder, reader))
    return tuple(one.file for one in found) if alone else ()


def _judged(file: Path, folder: Path, place: Place, asked: Columns) -> _Candidate:
    role = role_of_list(file, folder)
    try:
        table = table_of_list(file, place, asked)
    except UserError as error:
        return _Candidate(file, role, error, unreadable=True)
    image, label = has_image_column(table.names, asked), has_label_column(table.names, asked)
    try:
        columns = find_columns(table.names, asked, where=str(file))
    except UserError as error:
        facts = None
        if image and not label and asked == Columns():
            place_of_image = table.names.index(usual_columns(table.names).image)
            names = [cells[place_of_image] for cells in table.rows[:_COMPARED]]
            images = ListedImages(file, place.reader, place.has)
            paths = [images.find_anywhere(name) for name in names if isinstance(name, str)]
            facts = facts_of(file, table, role, paths)
        return _Candidate(file, role, error, image=image, label=label, facts=facts)
    at = [table.names.index(name) for name in (columns.image, columns.label)]
    rows = [(cells[at[0]], cells[at[1]]) for cells in table.rows]
    labels = {name: label for name, label in rows if isinstance(name, str)}
    images = ListedImages(file, place.reader, place.has)
    there = images.some_exist([*labels])
    first = [(images.find_anywhere(name), labels[name]) for name in [*labels][:_COMPARED]]
    agrees = all(path is None or _is_in(path, label) for path, label in first)
    facts = facts_of(file, table, role, [path for path, _ in first]) if agrees else None
    return _Candidate(file, role, image=True, label=True, there=there, agrees=agrees, facts=facts)


def _is_in(path: Path, label: Cell) -> bool:
    """Whether a folder of the path is called as the class."""
    return isinstance(label, str) and plain_label(label) in map(plain_label, path.parts)


def _within(files: Sequence[Path], folder: Path) -> str:
    return ", ".join(file.relative_to(folder).as_posix() for file in files)
